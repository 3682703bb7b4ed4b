"""The flow `convert`: a source of inputs into one modality, each item once, whatever interrupts it.

Prefect sees the run, its shards and its end; the ledger in the store decides what is left to do, so a killed run is
gone on with by starting it again. One task carries a shard of items: a task costs milliseconds, an item need not.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from ..anygpt_model.errors import AnyloomError
from ..storage.jobs import Job
from .artifacts import show_progress, show_summary
from .destination import Destination, manifest_rows
from .ledger import Asked
from .planning import Order, all_items, estimate, leading, order, planned, rows
from .quiet import sweep
from .shards import Shard
from .sources import Source
from .watching import Answer, watched, watcher
from .workplace import close_workplaces, workplace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow, FlowRun, State

    from ..storage.store import Store

log = logging.getLogger(__name__)

SHARD = 32
LOOK = 0.5
"""Seconds between two looks at how far the shards are."""


class TooManyFailed(AnyloomError):
    """More items failed than the conversion was allowed."""


def on_failure(flow: Flow, run: FlowRun, state: State[Any]) -> None:
    """Say in the log how to go on: nothing that was done is lost."""
    log.error("%s ended as %s; start it again to go on where it stopped", run.name, state.name)


@task(name="shard", task_run_name="shard {number}", cache_policy=NO_CACHE, persist_result=False)
def convert_shard(order_document: dict[str, Any], number: int, size: int) -> dict[str, int]:
    """Claim at most `size` items of the job and finish them; how many were done and how many failed."""
    given = Order.from_document(order_document)
    place = workplace(given.model, given.device, given.database)
    job = place.store.jobs.job(given.job)

    def ask(message: Any, context: Any) -> None:
        place.graph.invoke({"messages": [message]}, context=context)

    shard = Shard(job, place.store, ask, Source(given.source), Destination(given.out))
    return shard.work(f"{socket.gethostname()}:{os.getpid()}:{number}", size)


@flow(
    name="convert",
    flow_run_name="convert {source} to {to}",
    task_runner=cast(Any, ThreadPoolTaskRunner(max_workers=1)),
    on_failure=[cast(Any, on_failure)],
    on_crashed=[cast(Any, on_failure)],
    persist_result=False,
    validate_parameters=True,
)
def convert(
    source: str,
    to: str,
    out: str,
    text: str = "",
    seed: int = 0,
    voice: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    shard: int = SHARD,
    max_failed_share: float = 1.0,
) -> Any:
    """Convert every input of a source into one modality.

    Args:
        source: A folder, a glob, a CSV or JSONL table, or an fsspec URL of one.
        to: What every reply must hold: text, image, speech or music.
        out: The folder (or fsspec URL) for results and the manifest; the same folder goes on with the same job.
        text: What to ask of every item, beside its own text.
        seed: Every item's seed is made from this one and the item's content.
        voice: A saved voice's name.
        model: A model's name or folder; by default what ANYLOOM_MODEL says.
        limit: At most so many items in this run.
        retry_failed: Take failed items again.
        shard: Items a task carries.
        max_failed_share: The run fails if more than this share of its items did.
    """
    given = order(source, out, Asked(to=to, text=text, voice=voice, seed=seed), model)
    with leading(given.job):
        answer = _converted(given, limit, retry_failed, max(1, shard))
    watcher().answer.update(answer)
    worked = answer["done"] + answer["failed"]
    told = f"{answer['done']} done, {answer['failed']} failed, {answer['skipped']} skipped, {answer['left']} left"
    if worked and answer["failed"] / worked > max_failed_share:
        raise TooManyFailed(
            f"{told}: more than the {max_failed_share:.0%} that were allowed; see {answer['manifest']}."
        )
    return Completed(message=told, name="CompletedWithFailures" if answer["failed"] else "Completed")


def _converted(given: Order, limit: int | None, retry_failed: bool, size: int) -> Answer:
    """Plan, run the shards, write the manifest; what came of it."""
    began = monotonic()
    items = rows(given)
    place = Destination(given.out)
    with _store(given) as store:
        job = store.jobs.open(given.job, given.document())
        store.jobs.release(job)
        store.jobs.add(job, items)
        if retry_failed:
            store.jobs.retry_failed(job)
        names = [item.name for item in items]
        _leave_out(store, job, set(names))
        to_do = store.jobs.counts(job)["pending"]
        now = to_do if limit is None else min(limit, to_do)
        try:
            done, failed = _run_shards(given, store, job, now, size)
        finally:
            told = manifest_rows(all_items(store, job), names)
            place.write_manifest(told)
        show_summary(given, told)
    return {
        "job": given.job,
        "found": len(items),
        "done": done,
        "failed": failed,
        "skipped": len(items) - to_do,
        "left": to_do - now,
        "reasons": {row["name"]: row["error"] for row in told if row["status"] == "failed"},
        "seconds": round(monotonic() - began, 2),
        "out": given.out,
        "manifest": f"{given.out.rstrip('/')}/manifest.jsonl",
    }


def _leave_out(store: Store, job: Job, names: set[str]) -> None:
    """Set aside what is still to be done of inputs that have left the source."""
    for item in list(all_items(store, job)):
        if item.state == "pending" and item.name not in names:
            store.jobs.fail(item, "The input is no longer in the source; put it back and retry what failed.")


def _run_shards(given: Order, store: Store, job: Job, total: int, size: int) -> tuple[int, int]:
    """Submit the shards and watch the ledger until they are through: items done and failed in this run."""
    before = store.jobs.counts(job)
    sizes = [min(size, total - start) for start in range(0, total, size)]
    watcher().say("opening the model" if sizes else "nothing to do")
    futures = [convert_shard.submit(given.document(), number, some) for number, some in enumerate(sizes, 1)]
    shown = show_progress(given) if futures else None
    waiting: Sequence[PrefectFuture[dict[str, int]]] = futures
    while waiting:
        waiting = list(wait(list(waiting), timeout=LOOK).not_done)
        now = store.jobs.counts(job)
        done, failed = now["done"] - before["done"], now["failed"] - before["failed"]
        watcher().moved(done, failed, total)
        if shown is not None:
            shown(math.floor(100 * (done + failed) / max(total, 1)))
    ended = [future.result() for future in futures]
    return sum(counts["done"] for counts in ended), sum(counts["failed"] for counts in ended)


def run_convert(
    source: str,
    *,
    to: str,
    out: str | Path,
    text: str | None = None,
    seed: int = 0,
    voice: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
    shard: int = SHARD,
    max_failed_share: float = 1.0,
) -> Answer:
    """Run the flow here and now, its progress on stderr unless `quiet`; what came of it, by name.

    What can be refused is refused before anything starts. Servers that a killed run left behind are ended first.
    """
    given = order(source, str(out), Asked(to=to, text=text or "", voice=voice, seed=seed), model)
    if dry_run:
        return dry(given, limit, retry_failed)
    Source(source).inputs()
    Destination(given.out)
    sweep()
    try:
        with watched(quiet) as seen:
            try:
                convert(
                    source, to, given.out, text or "", seed, voice, model, limit, retry_failed, shard, max_failed_share
                )
            except TooManyFailed as error:
                log.warning("%s", error)
            return dict(seen.answer)
    finally:
        close_workplaces()


def dry(given: Order, limit: int | None, retry_failed: bool) -> Answer:
    """What a run would do, exactly, and what it would cost, about; nothing is written."""
    items = rows(given)
    with _store(given) as store:
        plan = planned(store, given, items)
        to_do = plan.to_do + (plan.failed if retry_failed else 0)
        now = to_do if limit is None else min(limit, to_do)
        counts = {"new": plan.new, "stale": plan.stale, "skipped": plan.done, "failed_before": plan.failed}
        return {"job": given.job, "dry_run": True, "found": len(items), "to_do": now, **counts} | estimate(
            store, given, now
        )


def _store(given: Order) -> Store:
    from ..storage.store import open_store

    return open_store(given.database)
