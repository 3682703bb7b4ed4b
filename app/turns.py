"""Asking the graph from a command: options -> context, events -> screen. Opens nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import HumanMessage

from ..anygpt_model.checkpoints import model_folder
from ..anygpt_model.errors import InputError
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Modality, Turn
from ..graphs.conversation import build_graph
from ..graphs.handles import to_block
from ..graphs.settings import settings
from ..nodes.options import bounds, sampling, template
from ..nodes.state import Context
from .console import Screen
from .files import read_file

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..storage.store import Store


class Given(Protocol):
    """A file's bytes and what the caller says they are."""

    @property
    def data(self) -> bytes: ...

    @property
    def modality(self) -> Modality | None: ...


class Asker:
    """One command's options, put to the graph once or many times."""

    def __init__(self, store: Store, screen: Screen, to: str | None, options: Mapping[str, Any]) -> None:
        """options: what the command line said of voice, seed, temperature, limits and conversation."""
        self._store = store
        self._screen = screen
        self._voice = options.get("voice") or settings().voice
        self.context = Context(
            to=to,
            seed=options.get("seed"),
            temperature=options.get("temperature"),
            max_tokens=options.get("max_tokens"),
            max_seconds=options.get("max_seconds"),
            max_segments=options.get("max_segments"),
            sampling={"text": {"beams": beams}} if (beams := options.get("beams")) is not None else {},
            conversation=options.get("conversation"),
            template=options.get("template"),
            instruction=options.get("instruction"),
        )
        self._only = bool(options.get("only"))
        self.wish(to)

    def check(self, model: str | None) -> None:
        """Refuse what can be refused before weights are read: modality, limits, voice, model."""
        bounds(self.context)
        sampling(self.context)
        template(self.context)
        model_folder(model or settings().model)
        if self._voice and not self._is_recording():
            self._store.voice(self._voice)

    def ask(self, engine: Engine, words: str, inputs: Sequence[Given] = ()) -> Turn:
        """Run the graph once, showing what it makes; the recorded turn."""
        content: list[Any] = [to_block(self._store, item.data, item.modality) for item in inputs]
        if words:
            content.append({"type": "text", "text": words})
        graph = build_graph(engine, self._store)
        context = replace(self.context, voice=self._kept_voice())
        recorded = ""
        request: Any = {"messages": [HumanMessage(content=content)]}
        for event in graph.stream(request, context=context, stream_mode="custom"):
            self._show(event)
            recorded = event.get("turn", recorded)
        self._screen.clear()
        self._screen.newline()
        return self._store.turn(recorded)

    def follow(self, turn: Turn) -> None:
        """Continue the conversation of `turn`, whatever its id was to be."""
        self.context = replace(self.context, conversation=turn.conversation)

    def wish(self, to: str | None) -> None:
        """What the next replies must hold. Raises UnknownName."""
        if self._only and to is None:
            raise InputError("--only came without --to; say of which modality the reply is to be.")
        wished = replace(self.context, to=to, modalities=(to,) if self._only and to else None)
        bounds(wished)
        self.context = wished

    def _is_recording(self) -> bool:
        return bool(self._voice) and Path(str(self._voice)).is_file()

    def _kept_voice(self) -> str | None:
        """A recording is kept and named by its hash; a saved voice keeps its name."""
        if not self._voice or not self._is_recording():
            return self._voice or None
        data = read_file(Path(self._voice), Limits().max_bytes)
        return str(to_block(self._store, data, Modality.SPEECH)["file_id"])

    def _show(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._screen.progress(WORK[event["node"]])
        elif kind == "token" and event["modality"] == Modality.TEXT:
            if event.get("kind") == "transcript":
                self._screen.progress("Listening …")
            else:
                self._screen.write(event["text"])
        elif kind == "token" and event["modality"]:
            self._screen.progress(f"Making {event['modality']}: {event['count']} tokens …")


WORK = {
    "tokenize_image": "Looking at the picture …",
    "tokenize_speech": "Listening to the speech …",
    "tokenize_music": "Listening to the music …",
    "detokenize_image": "Drawing the picture …",
    "detokenize_speech": "Voicing the speech …",
    "detokenize_music": "Playing the music …",
}
"""What a node does, in words."""
