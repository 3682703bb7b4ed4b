"""A shard: some items of the ledger, many in work at once so that the engine batches them.

An item that can't be worked is set apart with its reason and disturbs no other. Knows no Prefect, and not what the
work is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..anygpt_model.errors import AnyloomError, Busy, Cancelled
from ..storage.jobs import Item, Job
from .interrupts import interrupted, let_go
from .sources import printable

if TYPE_CHECKING:
    from ..storage.store import Store

log = logging.getLogger(__name__)

WAVE = 16
"""Items that are worked together: as many as the engine decodes at once."""
SHORT_WAVE = 64
"""The same where an item takes milliseconds: what a wave costs beside its items is then shared by more."""
WAVES = 3
"""Waves in work at once: while the last replies of one are made, the next ones keep the engine's batch full."""
LEASE = 900.0
"""Seconds for which a worker holds an item; renewed while the shard moves."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an item. turn: the id of the turn that it is, if it is one. outputs: what the ledger keeps of it."""

    turn: str | None
    outputs: dict[str, Any]


Work = Callable[[Sequence[Item]], Sequence[Result | Exception]]


def each(work: Callable[[Item], Result]) -> Work:
    """The work on one item as work on many, one after another."""

    def one(item: Item) -> Result | Exception:
        if interrupted():
            return let_go()
        try:
            return work(item)
        except Exception as error:
            # Whatever one item does, the others go on; the shard judges it.
            return error

    return lambda items: [one(item) for item in items]


class Shard:
    """Works claimed items of one job."""

    def __init__(self, job: Job, store: Store, work: Work, deadline: float | None = None, wave: int = WAVE) -> None:
        """deadline: seconds since 1970 after which no item is begun; those left over are given back. wave: items that
        are worked together."""
        self._job = job
        self._store = store
        self._work = work
        self._deadline = deadline
        self._size = wave

    def work(self, worker: str, limit: int) -> dict[str, int]:
        """Claim at most `limit` items and finish them; how many were done and how many failed."""
        if interrupted():
            return {"done": 0, "failed": 0}
        self._store.jobs.release(self._job, worker)  # what the same worker left when its task failed and came again
        items = self._store.jobs.claim(self._job, worker, limit, LEASE)
        counts: Counter[str] = Counter(done=0, failed=0)
        with held(self._store, items):
            for some in _by_key(items):
                counts += self._worked(some, self._size, WAVES)
        self._store.jobs.release(self._job, worker)
        return {"done": counts["done"], "failed": counts["failed"]}

    def _worked(self, items: Sequence[Item], size: int, at_once: int) -> Counter[str]:
        """Work `items` in waves; those that memory was too short for again, half as many at once."""
        waves = [items[start : start + size] for start in range(0, len(items), size)]
        short: list[Item] = []
        counts: Counter[str] = Counter()
        contexts = [copy_context() for _ in waves]  # what a wave logs is then known to be of this run
        with ThreadPoolExecutor(at_once, thread_name_prefix="wave") as pool:
            told = pool.map(lambda context, wave: context.run(self._wave, wave, size == 1), contexts, waves)
            for ended, again in told:
                counts += ended
                short += again
        if short:
            log.warning("memory was short for %d items; trying %d at once", len(short), max(1, size // 2))
            counts += self._worked(short, max(1, size // 2), 1)
        return counts

    def _wave(self, items: Sequence[Item], last: bool) -> tuple[Counter[str], list[Item]]:
        """How many items of a wave were done and failed, and those that memory was too short for, if there is another
        try. Nothing is begun after the deadline or an interrupt, and what that ended is neither."""
        if interrupted() or (self._deadline is not None and time.time() > self._deadline):
            return Counter(), []
        try:
            outcomes = self._work(items)
        except Exception as error:
            # The wave as a whole was refused: whatever it was, each of its items failed of it, and the others go on.
            outcomes = [error] * len(items)
        pairs = list(zip(items, outcomes, strict=True))
        short = [item for item, told in pairs if isinstance(told, Exception) and short_of_memory(told) and not last]
        done = [(item, told.turn, told.outputs) for item, told in pairs if isinstance(told, Result)]
        left = {id(item) for item, told in pairs if isinstance(told, Cancelled)} | set(map(id, short))
        failed = [(item, reason(told)) for item, told in pairs if isinstance(told, Exception) and id(item) not in left]
        self._store.jobs.finish(done, failed)
        for item, why in failed:
            log.info("%s: %s", item.name, why, extra={"item": item.name, "job": self._job.name})
        return Counter(done=len(done), failed=len(failed)), short


@contextmanager
def held(store: Store, items: Sequence[Item]) -> Iterator[None]:
    """Renew the lease of `items` for as long as the block runs, however long one wave takes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE / 3):
            store.jobs.renew(items, LEASE)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def reason(error: BaseException) -> str:
    """Why an item failed, in one sentence."""
    if isinstance(error, AnyloomError):
        return printable(str(error))
    first = (printable(str(error)).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def short_of_memory(error: BaseException) -> bool:
    """By name, since the tensor library is not this floor's to know; a full queue is answered in the same way."""
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError | Busy) or named


def _by_key(items: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """The first item of each key, and those that ask for the same: they wait, and find it done."""
    first: dict[str, Item] = {}
    twins = [item for item in items if first.setdefault(item.key, item) is not item]
    return list(first.values()), twins
