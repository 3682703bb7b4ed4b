"""The flow `convert`: a source of inputs into one modality, each item once, whatever interrupts it.

Prefect sees the run, its shards and its end; the ledger in the store decides what is left to do, so a killed run is
gone on with by starting it again. One task carries a shard of items: a task costs milliseconds, an item need not.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import Field

from ..anygpt_model.errors import AnyloomError
from .conversion import Conversion, asking
from .crashed import tell_crashed
from .destination import Destination
from .interrupts import unwinding_on_sigterm
from .ledger import Asked
from .planning import Order, leading, order
from .quiet import sweep
from .runners import check_database, task_runner
from .running import Terms, dry, open_store, run_job
from .server import check_server, no_heartbeat, start_server
from .shards import SHORT_WAVE, WAVE, Shard
from .sources import Source
from .watching import Answer, watched, watcher
from .workplace import close_workplaces, workplace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow, FlowRun, State

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]


class TooManyFailed(AnyloomError):
    """More items failed than the conversion was allowed."""


def on_failure(flow: Flow, run: FlowRun, state: State[Any]) -> None:
    """Say in the log how to go on: nothing that was done is lost."""
    # The run is named because it is over: its page would not get what is logged now.
    about = {"flow_run_id": str(run.id)}
    log.error("%s ended as %s; start it again to go on where it stopped", run.name, state.name, extra=about)


@task(name="shard", task_run_name="shard {number}", cache_policy=NO_CACHE, persist_result=False)
def convert_shard(document: dict[str, Any], number: int, size: int, deadline: float | None = None) -> dict[str, int]:
    """Claim at most `size` items of the job and finish them; how many were done and how many failed."""
    given = Order.from_document(document)
    place = workplace(given.model, given.device, given.database)
    ask = asking(place, given.item_timeout)
    work = Conversion(given.job, place.store, ask, Source(given.source), Destination(given.out))
    shard = Shard(place.store.jobs.job(given.job), place.store, work, deadline, wave(given))
    return shard.work(worker_name(number), size)


def wave(given: Order) -> int:
    """Items that a shard works together: more where replies are short, unless a clock runs for all of a wave."""
    return SHORT_WAVE if given.asked.to == "text" and given.item_timeout is None else WAVE


def worker_name(number: int) -> str:
    """Who holds the items of shard `number`: a machine, a process, a shard."""
    return f"{socket.gethostname()}:{os.getpid()}:{number}"


@flow(
    name="convert",
    flow_run_name="convert {source} to {to}",
    task_runner=task_runner(),
    on_failure=[cast(Any, on_failure)],
    on_crashed=[cast(Any, on_failure)],
    persist_result=False,
    validate_parameters=True,
)
def convert(
    source: str,
    to: Literal["text", "image", "speech", "music"],
    out: str,
    text: str = "",
    seed: int = 0,
    voice: str | None = None,
    model: str | None = None,
    max_tokens: Annotated[int, Field(ge=1)] | None = None,
    max_seconds: Annotated[float, Field(gt=0)] | None = None,
    columns: dict[str, str] | None = None,
    limit: Annotated[int, Field(ge=0)] | None = None,
    retry_failed: bool = False,
    only_stale: bool = False,
    shard: Annotated[int, Field(ge=1)] | None = None,
    item_timeout: Annotated[float, Field(gt=0)] | None = None,
    stop_after: Annotated[float, Field(ge=0)] | None = None,
    max_failed_share: Share = 1.0,
) -> Any:
    """Convert every input of a source into one modality.

    Args:
        source: A folder, a glob, a CSV or JSONL table, or an fsspec URL of one.
        to: What every reply must hold.
        out: The folder (or fsspec URL) for results and the manifest; the same folder goes on with the same job.
        text: What to ask of every item, beside its own text.
        seed: Every item's seed is made from this one and the item's content.
        voice: A saved voice's name.
        model: A model's name or folder; by default what ANYLOOM_MODEL says.
        max_tokens: At most so many ids a reply.
        max_seconds: At most so many seconds of sound a reply.
        columns: Which of the table's columns serve as ours, e.g. {"text": "question", "image": "photo"}.
        limit: At most so many items in this run.
        retry_failed: Take failed items again.
        only_stale: Leave new inputs for later; do again what changed, and finish what was begun.
        shard: Items a task carries; by default as many as suit their number and the workers.
        item_timeout: Seconds after which an item fails.
        stop_after: Seconds after which no item is begun; the next run goes on.
        max_failed_share: The run fails if more than this share of its items did.
    """
    asked = Asked(to=to, text=text, voice=voice, seed=seed, max_seconds=max_seconds, max_tokens=max_tokens)
    given = order(source, out, asked, model, columns, item_timeout)
    check_database(given.database)
    with leading(given.job):
        tell_crashed()
        answer, _ = run_job(given, Terms(limit, retry_failed, only_stale, shard, stop_after), convert_shard.submit)
    return ended(answer, max_failed_share)


def ended(answer: Answer, allowed: float) -> Any:
    """The run's end state; the watcher gets the answer. Raises TooManyFailed.

    Items that failed in an earlier run and were not tried again count in its name: the result lacks them still.
    """
    watcher().answer.update(answer)
    worked = answer["done"] + answer["failed"]
    told = f"{answer['done']} done, {answer['failed']} failed, {answer['skipped']} skipped, {answer['left']} left"
    if worked and answer["failed"] / worked > allowed:
        raise TooManyFailed(f"{told}: more than the {allowed:.0%} that were allowed; see {answer['manifest']}.")
    return Completed(message=told, name="CompletedWithFailures" if answer["reasons"] else "Completed")


def run_convert(
    source: str,
    *,
    to: str,
    out: str | Path,
    text: str | None = None,
    seed: int = 0,
    voice: str | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    only_stale: bool = False,
    shard: int | None = None,
    item_timeout: float | None = None,
    stop_after: float | None = None,
    max_failed_share: float = 1.0,
    quiet: bool = False,
) -> Answer:
    """Run the flow here and now, its progress on stderr unless `quiet`; what came of it, by name.

    What can be refused is refused before anything starts. Servers that a killed run left behind are ended first.
    """
    asked = Asked(to, text or "", voice, seed, max_seconds, max_tokens)
    given = order(source, str(out), asked, model, columns, item_timeout)
    terms = Terms(limit, retry_failed, only_stale, shard, stop_after)
    if dry_run:
        return dry(given, terms)
    options = {**asdict(asked), **asdict(terms), "columns": dict(columns or {}), "item_timeout": item_timeout}
    named = {"source": source, "out": given.out, "model": model, "max_failed_share": max_failed_share}
    return here_and_now(convert, given, {**options, **named}, quiet)


def of_nobody_else(record: logging.LogRecord) -> bool:
    """Whether a log record is for the terminal: what a run raised reaches its caller, who tells it in one sentence."""
    return not (record.exc_info and record.name.startswith("prefect."))


def here_and_now(run: Any, given: Order, options: dict[str, Any], quiet: bool) -> Answer:
    """Call a flow in this process; what came of it.

    Raises SettingsError, InputError or StoreError for what can't be used, before anything is started.
    """
    check_database(given.database)
    Source(given.source, given.columns).inputs()
    Destination(given.out)
    open_store(given).close()
    check_server()
    chosen = run.with_options(task_runner=task_runner())
    return begun(chosen, options, quiet, (given.verb, given.asked.to), TooManyFailed)


def begun(
    run: Callable[..., Any],
    options: dict[str, Any],
    quiet: bool,
    named: Sequence[str],
    told: type[AnyloomError],
    doing: str = "converting",
) -> Answer:
    """Call a checked flow in this process, watched; what came of it, also where it ended with the error `told`.

    named: the run's tags beside ours.
    """
    sweep()
    for handler in logging.getLogger().handlers:
        handler.addFilter(of_nobody_else)
    try:
        with unwinding_on_sigterm(), watched(quiet, doing) as seen, tags("anyloom", *named), no_heartbeat():
            start_server()
            try:
                run(**options)
            except told as error:
                log.warning("%s", error)
            return dict(seen.answer)
    finally:
        close_workplaces()
