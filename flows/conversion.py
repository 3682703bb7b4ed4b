"""Items of a conversion: each an ordinary turn of the store, its media written to the destination. Knows no Prefect."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from ..anygpt_model.errors import AnyloomError, InputError
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Turn
from ..graphs.handles import to_block
from ..nodes.state import Context
from ..storage.jobs import Item
from .destination import Destination, file_name
from .interrupts import interrupted, let_go
from .ledger import request_text
from .shards import Result
from .sources import Source

if TYPE_CHECKING:
    from ..storage.store import Store
    from .workplace import Workplace

Ask = Callable[[Sequence[tuple[HumanMessage, Context]]], Sequence[Turn | Exception]]
"""Answers many messages, each under its options: for each the turn that was recorded, or what kept it from that."""


class TookTooLong(AnyloomError):
    """An item took longer than it may."""


class Conversion:
    """Makes turns of items."""

    def __init__(self, job: str, store: Store, ask: Ask, source: Source, destination: Destination) -> None:
        self._job = job
        self._store = store
        self._ask = ask
        self._source = source
        self._destination = destination

    def __call__(self, items: Sequence[Item]) -> list[Result | Exception]:
        """For each item its turn, the media written, or what kept it from being made."""
        runs = {item.number: f"{self._job}/{item.key}" for item in items}
        # What an interrupted run or a twin has recorded already is not made again.
        recorded = self._store.recorded(runs.values())
        told: dict[int, Turn | Exception] = {}
        messages: dict[int, tuple[HumanMessage, Context]] = {}
        for item in items:
            if (turn := recorded.get(runs[item.number])) is not None:
                told[item.number] = turn
                continue
            try:
                content = self._content(item)
                messages[item.number] = HumanMessage(content=content), _context(item, runs[item.number])
            except Exception as error:
                # An item that can't be read is its own end alone; the shard judges what it says.
                told[item.number] = error
        told.update(zip(messages, self._ask(list(messages.values())), strict=True))
        return [self._result(told[item.number]) for item in items]

    def _result(self, turn: Turn | Exception) -> Result | Exception:
        if isinstance(turn, Exception):
            return turn
        try:
            return Result(turn.id, self._written(turn))
        except Exception as error:
            # A reply that can't be written down is one item's failure; its turn is kept, and a retry finds it.
            return error

    def _content(self, item: Item) -> str | list[Any]:
        limits = Limits()
        text = request_text(self._source, item.source)
        if not text and not item.source["media"]:
            raise InputError("The request is empty; give the item a text or a file.")
        files = [(self._source.read(path, limits.max_bytes), said) for path, said in item.source["media"]]
        if not files:
            return text
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
    """How messages become turns; those that take more than `seconds` are TookTooLong, those that an interrupt ended are
    Cancelled, and the engine stops working on both. The clock runs for all messages of a call together: the engine
    decodes them side by side."""

    def ask(messages: Sequence[tuple[HumanMessage, Context]]) -> list[Turn | Exception]:
        end = math.inf if seconds is None else time.monotonic() + seconds
        turns = place.side_by_side.turns(messages, lambda: interrupted() or time.monotonic() > end)
        return [_unfinished(seconds) if turn is None else turn for turn in turns]

    return ask


def _unfinished(seconds: float | None) -> Exception:
    if seconds is None or interrupted():
        return let_go()
    return TookTooLong(f"It took more than {seconds:g} s; allow an item more, or ask for less.")


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
