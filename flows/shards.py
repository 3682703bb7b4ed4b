"""A shard: some items of the ledger, each one ordinary turn of the graph, many at once so that the engine batches them.

An item that can't be converted is set apart with its reason and disturbs no other. Knows no Prefect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid5

from langchain_core.messages import HumanMessage

from ..anygpt_model.errors import AnyloomError, Busy, InputError, UnknownName
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Turn
from ..graphs.handles import to_block
from ..nodes.recording import RUNS
from ..nodes.state import Context
from ..storage.jobs import Item, Job
from .destination import Destination, file_name
from .ledger import request_text
from .sources import Source

if TYPE_CHECKING:
    from ..storage.store import Store

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 8
"""Items in work at once; the engine joins their steps into batches."""
LEASE = 900.0
"""Seconds for which a worker holds an item that it doesn't finish."""
Ask = Callable[[Any, Context], None]
"""Puts one message to the graph under the options of a context."""


class Shard:
    """Converts claimed items of one job."""

    def __init__(self, job: Job, store: Store, ask: Ask, source: Source, destination: Destination) -> None:
        self._job = job
        self._store = store
        self._ask = ask
        self._source = source
        self._destination = destination

    def work(self, worker: str, limit: int) -> dict[str, int]:
        """Claim at most `limit` items and finish them; how many were done and how many failed."""
        items = self._store.jobs.claim(self._job, worker, limit, LEASE)
        outcomes = self._side_by_side(items, SIDE_BY_SIDE)
        return {"done": outcomes.count(True), "failed": outcomes.count(False)}

    def _side_by_side(self, items: Sequence[Item], width: int) -> list[bool]:
        """Convert `items`, `width` at once; those that memory was too short for again, half as many at once."""
        with ThreadPoolExecutor(width, thread_name_prefix="item") as pool:
            outcomes = list(pool.map(lambda item: self._finished(item, last=width == 1), items))
        again = [item for item, outcome in zip(items, outcomes, strict=True) if outcome is None]
        if again:
            log.warning("memory was short for %d items; trying %d at once", len(again), max(1, width // 2))
            self._store.jobs.renew(again, LEASE)
            outcomes += self._side_by_side(again, max(1, width // 2))
        return [outcome for outcome in outcomes if outcome is not None]

    def _finished(self, item: Item, last: bool) -> bool | None:
        """Whether the item was done; None if memory was short and it may be tried again."""
        try:
            turn = self._turn(item)
            self._store.jobs.done(item, turn.id, self._written(turn))
            return True
        except Exception as error:
            # Whatever one item does, the others go on; what is not ours to judge is told with its type.
            if _short_of_memory(error) and not last:
                return None
            self._store.jobs.fail(item, reason(error))
            log.info("%s: %s", item.name, reason(error))
            return False

    def _turn(self, item: Item) -> Turn:
        """The item's turn: the one that an interrupted run has recorded already, or a new one."""
        run = f"{self._job.name}/{item.key}"
        recorded = uuid5(RUNS, run).hex
        try:
            return self._store.turn(recorded)
        except UnknownName:
            self._ask(HumanMessage(content=self._content(item)), _context(item, run))
            return self._store.turn(recorded)

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


def reason(error: BaseException) -> str:
    """Why an item failed, in one sentence."""
    if isinstance(error, AnyloomError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


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


def _short_of_memory(error: BaseException) -> bool:
    """By name, since the tensor library is not this floor's to know; a full queue is answered in the same way."""
    return isinstance(error, MemoryError | Busy) or type(error).__name__ == "OutOfMemoryError"
