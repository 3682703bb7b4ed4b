"""A job from its order to its manifest: plan, hand out shards, watch the ledger, write down what came of each input.

What a shard does with its items is the task's business. The ledger, not the task's answer, says what is done: a worker
that dies takes its answer along, and its items are handed out again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.futures import PrefectFuture, wait

from ..anygpt_model.errors import AnyloomError, InputError
from ..nodes.options import check_voice
from ..storage.jobs import Job, NewItem
from .artifacts import show_progress, show_summary
from .destination import Destination, manifest_rows
from .interrupts import stopping_on_interrupt
from .planning import Order, all_items, estimate, known, planned, rows, wanted
from .runners import on_this_machine, runner_settings
from .server import revive_server, shared_server
from .watching import Answer, watcher

if TYPE_CHECKING:
    from ..storage.store import Store

log = logging.getLogger(__name__)

FEWEST, MOST = 128, 512
"""Items a task carries, unless said: Prefect spends as long on a task as the engine on twenty short replies, but every
worker is to get several."""
LOOK = 0.5
"""Seconds between two looks at how far the shards are."""
PATIENCE = 10.0
"""Seconds that an interrupted run waits for its shards, so that the manifest tells what they were just writing down."""
ROUNDS = 3
"""How often items are handed out whose worker died."""
Submit = Callable[[dict[str, Any], int, int, float | None], PrefectFuture[Any]]
"""Hands out a shard: the order's document, its number, its size, its deadline."""


class WorkerDied(AnyloomError):
    """A worker process of this machine ended in the midst of its shard, and its pool with it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How much a run does. stop_after: seconds after which no item is begun."""

    limit: int | None = None
    retry_failed: bool = False
    only_stale: bool = False
    shard: int | None = None
    stop_after: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("limit", 0), ("shard", 1), ("stop_after", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it takes {least} or more.")


def run_job(given: Order, terms: Terms, submit: Submit) -> tuple[Answer, list[dict[str, Any]]]:
    """Plan, run the shards, write the manifest; what came of it, and the manifest."""
    began = time.monotonic()
    handed: list[PrefectFuture[Any]] = []

    def kept(document: dict[str, Any], number: int, size: int, deadline: float | None) -> PrefectFuture[Any]:
        handed.append(submit(document, number, size, deadline))
        return handed[-1]

    items = rows(given)
    place = Destination(given.out)
    with open_store(given) as store, shared_server() if on_this_machine() else nullcontext():
        job = store.jobs.open(given.job, given.document())
        todo = _taken_in(store, job, items, terms)
        now = todo if terms.limit is None else min(terms.limit, todo)
        try:
            with stopping_on_interrupt(lambda: wait(handed, timeout=PATIENCE)):
                done, failed = _rounds(given, store, job, now, terms, kept)
        finally:
            told = manifest_rows(all_items(store, job), [item.name for item in items])
            place.write_manifest(told)
        show_summary(given, told)
    answer = {
        "job": given.job,
        "found": len(items),
        "done": done,
        "failed": failed,
        "skipped": len(items) - todo,
        "left": todo - done - failed,
        "reasons": {row["name"]: row["error"] for row in told if row["status"] == "failed"},
        "seconds": round(time.monotonic() - began, 2),
        "out": given.out,
        "manifest": f"{given.out.rstrip('/')}/manifest.jsonl",
    }
    log.info("%s: %d done, %d failed, %d left", given.job, done, failed, answer["left"], extra=answer)
    return answer, told


def shard_size(items: int, workers: int) -> int:
    """Items a task carries where nothing is said."""
    return max(FEWEST, min(MOST, math.ceil(items / (2 * workers))))


def dry(given: Order, terms: Terms) -> Answer:
    """What a run would do, exactly, and what it would cost, about; nothing is written."""
    found = rows(given)
    with open_store(given) as store:
        items = wanted(store, known(store, given), found, terms.only_stale)
        plan = planned(store, given, items)
        todo = plan.to_do + (plan.failed if terms.retry_failed else 0)
        now = todo if terms.limit is None else min(terms.limit, todo)
        counts = {"new": plan.new, "stale": plan.stale, "skipped": plan.done, "failed_before": plan.failed}
        about = estimate(store, given, items, now)
    return {"job": given.job, "dry_run": True, "found": len(found), "to_do": now, **counts, **about}


def open_store(given: Order) -> Store:
    """The order's store. Raises UnknownName or MediaError where it has not the voice that every item is to get."""
    from ..storage.store import open_store as opened

    store = opened(given.database)
    try:
        if given.asked.voice is not None:
            check_voice(given.asked.voice, store)
    except AnyloomError:
        store.close()
        raise
    return store


def _taken_in(store: Store, job: Job, items: Sequence[NewItem], terms: Terms) -> int:
    """Bring the ledger up to the source; how many items are to be done."""
    store.jobs.release(job)
    store.jobs.add(job, wanted(store, job, items, terms.only_stale))
    if terms.retry_failed:
        store.jobs.retry_failed(job)
    names = {item.name for item in items}
    for item in store.jobs.pending_beside(job, names):
        store.jobs.fail(item, "The input is no longer in the source; put it back and retry what failed.")
    return store.jobs.counts(job)["pending"]


def _rounds(given: Order, store: Store, job: Job, total: int, terms: Terms, submit: Submit) -> tuple[int, int]:
    """Hand out `total` items, and again those whose worker died; items done and failed in this run.

    Raises what a shard raised, if items are left because of it.
    """
    before = store.jobs.counts(job)
    deadline = None if terms.stop_after is None else time.time() + terms.stop_after
    watcher().say("opening the model" if total else "nothing to do")
    moved = _mover(given, total)
    done = failed = 0
    for _ in range(ROUNDS):
        left = total - done - failed
        most = terms.shard or shard_size(left, runner_settings().workers)
        sizes = [min(most, left - start) for start in range(0, left, most)]
        futures = [submit(given.document(), number, size, deadline) for number, size in enumerate(sizes, 1)]
        error = _watched(futures, lambda: moved(*_since(store, job, before)))
        store.jobs.release(job)
        earlier, (done, failed) = (done, failed), _since(store, job, before)
        moved(done, failed)
        late = deadline is not None and time.time() > deadline
        if done + failed >= total or late:
            return done, failed
        if (done, failed) == earlier or isinstance(error, WorkerDied):
            break
        log.warning("%d items were left by workers that died; they are handed out again", total - done - failed)
    if error is not None:
        raise error
    return done, failed


def _watched(futures: Sequence[PrefectFuture[Any]], look: Callable[[], None]) -> Exception | None:
    """Wait for the shards, looking now and then; what the last failed one raised."""
    waiting: Sequence[PrefectFuture[Any]] = futures
    while waiting:
        waiting = list(wait(list(waiting), timeout=LOOK).not_done)
        revive_server()
        look()
    found: Exception | None = None
    for future in futures:
        try:
            future.result()
        except BrokenProcessPool:
            found = WorkerDied(
                "A worker process was ended from outside, most often because memory was short; start the run again to "
                "go on where it stopped, with a smaller ANYLOOM_TASK_WORKERS if memory is the reason."
            )
        except Exception as error:
            # The other shards' work stands; whether this one's matters is told by what is left.
            found = error
    return found


def _mover(given: Order, total: int) -> Callable[[int, int], None]:
    shown = show_progress(given) if total else None

    def moved(done: int, failed: int) -> None:
        watcher().moved(done, failed, total)
        if shown is not None:
            shown(math.floor(100 * (done + failed) / max(total, 1)))

    return moved


def _since(store: Store, job: Job, before: dict[Any, int]) -> tuple[int, int]:
    now = store.jobs.counts(job)
    return now["done"] - before["done"], now["failed"] - before["failed"]
