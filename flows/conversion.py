"""One item of a conversion: an ordinary turn of the graph, its media written to the destination. Knows no Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid5

from langchain_core.messages import HumanMessage

from ..anygpt_model.errors import AnyloomError, InputError, UnknownName
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Turn
from ..graphs.handles import to_block
from ..nodes.recording import RUNS
from ..nodes.state import Context
from ..storage.jobs import Item
from .destination import Destination, file_name
from .ledger import request_text
from .shards import Result
from .sources import Source

if TYPE_CHECKING:
    from ..storage.store import Store
    from .workplace import Workplace

Ask = Callable[[Any, Context], Turn]
"""Puts one message to the graph under the options of a context; the turn that it recorded."""


class TookTooLong(AnyloomError):
    """An item took longer than it may."""


class Conversion:
    """Makes a turn of an item."""

    def __init__(self, job: str, store: Store, ask: Ask, source: Source, destination: Destination) -> None:
        self._job = job
        self._store = store
        self._ask = ask
        self._source = source
        self._destination = destination

    def __call__(self, item: Item) -> Result:
        """The item's turn, its media written. Raises what keeps it from being made."""
        turn = self._turn(item)
        return Result(turn.id, self._written(turn))

    def _turn(self, item: Item) -> Turn:
        """The item's turn: the one that an interrupted run or a twin has recorded already, or a new one."""
        run = f"{self._job}/{item.key}"
        recorded = uuid5(RUNS, run).hex
        try:
            return self._store.turn(recorded)
        except UnknownName:
            return self._ask(HumanMessage(content=self._content(item)), _context(item, run))

    def _content(self, item: Item) -> list[Any]:
        limits = Limits()
        text = request_text(self._source, item.source)
        if not text and not item.source["media"]:
            raise InputError("The request is empty; give the item a text or a file.")
        files = [(self._source.read(path, limits.max_bytes), said) for path, said in item.source["media"]]
        content: list[Any] = [to_block(self._store, data, said) for data, said in files]
        return [*content, {"type": "text", "text": text}] if text else content

    def _written(self, turn: Turn) -> dict[str, Any]:
        """Write the reply's media; what the ledger keeps of the reply."""
        files: list[dict[str, Any]] = []
        for part in turn.reply:
            if part.media is not None:
                name = file_name(turn.id, len(files) + 1, part.media.mime)
                self._destination.put(name, self._store.get(part.media.hash))
                about = {"modality": part.modality.value, "hash": part.media.hash, "content": part.media.content}
                files.append({"file": name, **about})
        said = [part.text for part in turn.reply if part.text and part.kind == "content"]
        return {"text": " ".join(said), "files": files, "tokens": len(turn.generation.ids)}


def asking(place: Workplace, seconds: float | None) -> Ask:
    """How a message is put to the graph; raises TookTooLong after `seconds`, and the engine stops working on it."""

    def ask(message: Any, context: Context) -> Turn:
        given = {"messages": [message]}
        if seconds is None:
            return place.recorded(place.graph.invoke(given, context=context)["turn"])
        try:
            state = asyncio.run(asyncio.wait_for(place.graph.ainvoke(given, context=context), seconds))
            return place.recorded(state["turn"])
        except TimeoutError:
            raise TookTooLong(f"It took more than {seconds:g} s; allow an item more, or ask for less.") from None

    return ask


def _context(item: Item, run: str) -> Context:
    asked = item.source
    return Context(
        to=asked["to"],
        seed=asked["seed"],
        voice=asked["voice"],
        max_seconds=asked["max_seconds"],
        max_tokens=asked["max_tokens"],
        run=run,
        conversation=None,
    )
