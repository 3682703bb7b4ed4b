"""ChatAnyGPT: the graph as a LangChain chat model. Messages in, one message out; media are referred to by hash.

Each reply carries its turn, so that a conversation handed back is continued from the store's ids. Knows no id and no
codec.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field

from ..anygpt_model.errors import InputError
from ..anygpt_model.values import Media, Modality
from ..nodes.messages import media_block
from ..nodes.ports import Keeper
from ..nodes.state import Context
from .conversation import Graph, build_graph, memory_store
from .isolation import ainvoked, astreamed, invoked, streamed


class ChatAnyGPT(BaseChatModel):
    """A chat model that hears, sees, speaks, draws and plays.

    engine: an open engine; None opens `model` at the first call. store: where media and turns are kept; None keeps them
    in memory. urls: whether messages may name media by URL, as `build_graph` takes it. The other fields are options of
    every call; `bind(modalities=["text", "speech"], voice="ann")` and the keyword arguments of a call win over them.
    What only other providers have (timeout, max_retries …) is ignored.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="ignore", ignored_types=(cached_property,))

    engine: Any = Field(default=None, exclude=True, repr=False)
    store: Any = Field(default=None, exclude=True, repr=False)
    urls: Any = Field(default=False, exclude=True, repr=False)
    model: str = "pocket"
    to: str | None = None
    modalities: list[str] | str | None = None
    voice: str | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    stop: list[str] | None = None

    @property
    def _llm_type(self) -> str:
        return "anyloom"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model if self.engine is None else self.engine.name, **self._options({})}

    @cached_property
    def keeper(self) -> Keeper:
        """The store that handles refer to."""
        kept: Keeper = self.store if self.store is not None else memory_store()
        return kept

    @cached_property
    def graph(self) -> Graph:
        """The compiled graph behind this model."""
        if self.engine is None:
            from ..anygpt_model.engine import load_engine

            self.engine = load_engine(self.model)
        return build_graph(self.engine, self.keeper, checkpointer=False, urls=self.urls)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Refused: AnyGPT was not trained to call tools."""
        raise InputError("ChatAnyGPT can't call tools; give AnyGPTTool to an agent whose chat model can.")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(invoked(self.graph, list(messages), self._context(kwargs)), stop)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        graph = await asyncio.to_thread(lambda: self.graph)
        return self._result(await ainvoked(graph, list(messages), self._context(kwargs)), stop)

    def _result(self, state: dict[str, Any], stop: list[str] | None) -> ChatResult:
        reply: AIMessage = _stopped(state["messages"][-1], stop or self.stop or [])
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if stop or self.stop:
            [made] = self._generate(messages, stop, run_manager, **kwargs).generations
            yield _last(made.message, made.message.content)
            return
        pieces = _Pieces()
        reply = None
        for mode, item in streamed(self.graph, list(messages), self._context(kwargs)):
            if mode == "values":
                reply = item["messages"][-1]
            elif (chunk := pieces.take(item)) is not None:
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        if reply is not None:
            yield _last(reply, pieces.media() or "")

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if stop or self.stop:
            [made] = (await self._agenerate(messages, stop, run_manager, **kwargs)).generations
            yield _last(made.message, made.message.content)
            return
        pieces = _Pieces()
        reply = None
        graph = await asyncio.to_thread(lambda: self.graph)
        async with aclosing(astreamed(graph, list(messages), self._context(kwargs))) as steps:
            async for mode, item in steps:
                if mode == "values":
                    reply = item["messages"][-1]
                elif (chunk := pieces.take(item)) is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        if reply is not None:
            yield _last(reply, pieces.media() or "")

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        known = super()._get_ls_params(stop=stop, **kwargs)
        known["ls_provider"] = "anyloom"
        known["ls_model_name"] = str(kwargs.get("model", self._identifying_params["model"]))
        return known

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        names = ("to", "modalities", "voice", "seed", "temperature", "max_tokens", "max_seconds")
        return {name: given.get(name, getattr(self, name)) for name in names}

    def _context(self, given: dict[str, Any]) -> Context:
        """The options of one call. Raises InputError for one that isn't known."""
        chosen = self._options(given)
        others = {name: value for name, value in given.items() if name not in chosen}
        known = set(Context.__dataclass_fields__)
        if strange := set(others) - known:
            raise InputError(f"There is no option {sorted(strange)[0]!r}; a call takes {', '.join(sorted(known))}.")
        return Context(**chosen, **others)


class _Pieces:
    """Stream events -> the content of chunks: text as it is made; media, which are made side by side and end in any
    order, as blocks in the reply's order once all are there."""

    def __init__(self) -> None:
        self._said = False
        self._between = False
        self._media: dict[int, dict[str, Any]] = {}

    def take(self, event: dict[str, Any]) -> ChatGenerationChunk | None:
        """What `event` adds to the reply, or None."""
        if event["event"] == "segment" and "media" in event:
            self._media[event["position"]] = media_block(Modality(event["modality"]), Media(**event["media"]))
            return None
        if event["event"] != "token" or event.get("kind") == "transcript":
            return None
        if not event.get("text"):
            self._between = self._between or event["modality"] != Modality.TEXT
            return None
        # Segments of text are told apart as the recorded reply tells them: a reader of both sees the same words.
        lead = " " if self._between and self._said else ""
        self._said, self._between = True, False
        return ChatGenerationChunk(message=AIMessageChunk(content=f"{lead}{event['text']}"))

    def media(self) -> list[dict[str, Any]]:
        """The blocks of all media, in the reply's order."""
        return [self._media[position] for position in sorted(self._media)]


def _last(reply: BaseMessage, content: Any) -> ChatGenerationChunk:
    """The closing chunk: the turn, the counts, and whatever content is still to come."""
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=content,
            response_metadata=reply.response_metadata,
            usage_metadata=getattr(reply, "usage_metadata", None),
            chunk_position="last",
        )
    )


def _stopped(reply: AIMessage, stop: Sequence[str]) -> AIMessage:
    """`reply` up to the first stop string in its text, media after it left out; what was recorded stays whole."""
    if isinstance(reply.content, str):
        end = _end(reply.content, stop)
        return reply if end is None else reply.model_copy(update={"content": reply.content[:end]})
    kept: list[Any] = []
    for block in reply.content:
        if isinstance(block, dict) and (end := _end(block.get("text", ""), stop)) is not None:
            return reply.model_copy(update={"content": [*kept, {**block, "text": block["text"][:end]}]})
        kept.append(block)
    return reply


def _end(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins in `text`, or None."""
    return min((at for word in stop if word and (at := text.find(word)) >= 0), default=None)
