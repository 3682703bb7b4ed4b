"""A shard: some items of the ledger, many in work at once so that the engine batches them.

An item that can't be worked is set apart with its reason and disturbs no other. Knows no Prefect, and not what the
work is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..anygpt_model.errors import AnyloomError, Busy
from ..storage.jobs import Item, Job

if TYPE_CHECKING:
    from ..storage.store import Store

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 16
"""Items in work at once: as many as the engine decodes together."""
LEASE = 900.0
"""Seconds for which a worker holds an item; renewed while the shard moves."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an item. turn: the id of the turn that it is, if it is one. outputs: what the ledger keeps of it."""

    turn: str | None
    outputs: dict[str, Any]


Work = Callable[[Item], Result]


class Shard:
    """Works claimed items of one job."""

    def __init__(self, job: Job, store: Store, work: Work, deadline: float | None = None) -> None:
        """deadline: seconds since 1970 after which no item is begun; those left over are given back."""
        self._job = job
        self._store = store
        self._work = work
        self._deadline = deadline
        self._renewed = time.monotonic()

    def work(self, worker: str, limit: int) -> dict[str, int]:
        """Claim at most `limit` items and finish them; how many were done and how many failed."""
        self._store.jobs.release(self._job, worker)  # what the same worker left when its task failed and came again
        items = self._store.jobs.claim(self._job, worker, limit, LEASE)
        first, twins = _by_key(items)
        outcomes = [*self._side_by_side(first, SIDE_BY_SIDE), *self._side_by_side(twins, SIDE_BY_SIDE)]
        self._store.jobs.release(self._job, worker)
        return {"done": outcomes.count(True), "failed": outcomes.count(False)}

    def _side_by_side(self, items: Sequence[Item], width: int) -> list[bool]:
        """Work `items`, `width` at once; those that memory was too short for again, half as many at once."""
        if not items:
            return []
        with ThreadPoolExecutor(width, thread_name_prefix="item") as pool:
            outcomes = list(pool.map(lambda item: self._finished(item, items, last=width == 1), items))
        again = [item for item, outcome in zip(items, outcomes, strict=True) if outcome == "short"]
        if again:
            log.warning("memory was short for %d items; trying %d at once", len(again), max(1, width // 2))
            outcomes += self._side_by_side(again, max(1, width // 2))
        return [outcome for outcome in outcomes if isinstance(outcome, bool)]

    def _finished(self, item: Item, all_items: Sequence[Item], last: bool) -> bool | str:
        """Whether the item was done; "short" if memory was and it may be tried again, "late" if it was not begun."""
        if self._deadline is not None and time.time() > self._deadline:
            return "late"
        self._renew(all_items)
        try:
            result = self._work(item)
            self._store.jobs.done(item, result.turn, result.outputs)
            return True
        except Exception as error:
            # Whatever one item does, the others go on; what is not ours to judge is told with its type.
            if short_of_memory(error) and not last:
                return "short"
            self._store.jobs.fail(item, reason(error))
            log.info("%s: %s", item.name, reason(error), extra={"item": item.name, "job": self._job.name})
            return False

    def _renew(self, items: Sequence[Item]) -> None:
        now = time.monotonic()
        if now - self._renewed > LEASE / 3:
            self._renewed = now
            self._store.jobs.renew(items, LEASE)


def reason(error: BaseException) -> str:
    """Why an item failed, in one sentence."""
    if isinstance(error, AnyloomError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
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
