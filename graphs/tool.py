"""AnyGPTTool: any-to-any as a LangChain tool. Text and references in; short text out, media as handles in the artifact.

Media bytes never reach the agent's context: handles.py turns a handle into bytes, a file or an array. Knows no id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

from langchain_core.messages import HumanMessage
from langchain_core.tools import ArgsSchema, BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field

from ..anygpt_model.errors import AnyloomError
from ..anygpt_model.values import Part, Turn
from ..nodes.messages import media_block
from ..nodes.ports import Keeper
from ..nodes.state import Context
from .conversation import Graph, build_graph, memory_store
from .isolation import ainvoked, invoked


class Asked(BaseModel):
    """What an agent says to the tool."""

    text: str = Field(default="", description="What to do, say, draw or play, or a question about the media.")
    media: list[str] = Field(
        default_factory=list, description='Handles ("sha256:…") of pictures and sounds, as this tool returned them.'
    )
    to: Literal["text", "image", "speech", "music"] | None = Field(
        default=None, description="What the answer must hold; leave it out to let the model choose."
    )
    voice: str | None = Field(default=None, description="A saved voice's name, or the handle of a recording of it.")
    seed: int | None = Field(default=None, description="The same seed makes the same answer.")
    max_seconds: float | None = Field(default=None, description="The longest sound that is made.")
    max_segments: int | None = Field(default=None, description="The most pictures, and the most sounds of a kind.")


def mistaken(error: Any) -> str:
    """One sentence for an agent that gave an argument which can't be."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    return f"The argument {name!r} of this tool can't be taken: {first['msg']}."


class AnyGPTTool(BaseTool):
    """Understands and makes text, pictures, speech and music.

    engine: an open engine. store: where media and turns are kept; None keeps them in memory.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, ignored_types=(cached_property,))

    name: str = "anygpt"
    description: str = (
        "Makes and understands pictures, speech and music: draws, speaks, plays, describes, transcribes. "
        'Media go in and come out as handles ("sha256:…").'
    )
    args_schema: ArgsSchema | None = Asked
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = Field(default=mistaken)
    engine: Any = Field(exclude=True, repr=False)
    store: Any = Field(default=None, exclude=True, repr=False)

    @cached_property
    def keeper(self) -> Keeper:
        """The store that handles refer to."""
        kept: Keeper = self.store if self.store is not None else memory_store()
        return kept

    @cached_property
    def graph(self) -> Graph:
        """The compiled graph behind this tool."""
        return build_graph(self.engine, self.keeper, checkpointer=False)

    def _run(self, text: str = "", media: list[str] | None = None, **options: Any) -> tuple[str, dict[str, Any]]:
        with _told_to_the_agent():
            return self._answer(invoked(self.graph, self._asked(text, media), Context(**options)))

    async def _arun(self, text: str = "", media: list[str] | None = None, **options: Any) -> tuple[str, dict[str, Any]]:
        with _told_to_the_agent():
            asked = await asyncio.to_thread(self._asked, text, media)
            state = await ainvoked(self.graph, asked, Context(**options))
            return await asyncio.to_thread(self._answer, state)

    def _asked(self, text: str, media: list[str] | None) -> list[HumanMessage]:
        content: list[Any] = [self._block(handle) for handle in media or []]
        content += [{"type": "text", "text": text}] if text else []
        return [HumanMessage(content=content)]

    def _answer(self, state: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        turn = self.keeper.turn(state["turn"])
        return told(turn), artifact(turn)

    def _block(self, handle: str) -> dict[str, Any]:
        self.keeper.describe(handle)
        return {"type": "file", "file_id": handle}


@contextmanager
def _told_to_the_agent() -> Iterator[None]:
    """What is wrong with a call, as LangChain hands it to the agent that made it."""
    try:
        yield
    except AnyloomError as error:
        raise ToolException(str(error)) from error


def told(turn: Turn) -> str:
    """What the agent reads: the words, and a line for each medium."""
    return "\n".join(_line(part) for part in turn.reply if part.kind == "content")


def _line(part: Part) -> str:
    if part.media is None:
        return part.text or ""
    measure = f"{part.media.duration:.1f} s" if part.media.duration else f"{part.media.width} x {part.media.height}"
    return f"[{part.modality.value}, {measure}, {part.media.mime}: {part.media.hash}]"


def artifact(turn: Turn) -> dict[str, Any]:
    """What the agent's builder gets: the trace's id, and handles with their measures."""
    return {
        "turn": turn.id,
        "conversation": turn.conversation,
        "seed": turn.generation.seed,
        "text": "\n".join(part.text for part in turn.reply if part.text and part.kind == "content"),
        "media": [media_block(part.modality, part.media) for part in turn.reply if part.media is not None],
    }
