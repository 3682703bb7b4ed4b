"""The flow `reverify`: replay stored turns after an upgrade and report what drifted.

A turn is replayed in the mode of `graphs/replay.py`: "verify" redoes its sampling decisions in one forward pass,
"recorded" makes its media again from its ids. Nothing is stored. How far it is and what came of it goes to the watcher.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from ..anygpt_model.checkpoints import model_folder
from ..anygpt_model.errors import AnyloomError, SettingsError, UnknownName
from ..graphs.replay import Report, recorded, verify
from ..graphs.settings import settings
from ..storage.store import open_store
from .convert import begun
from .runners import check_database
from .server import check_server
from .shards import reason
from .watching import Answer, watcher
from .workplace import close_workplaces, workplace

if TYPE_CHECKING:
    from ..storage.store import Store

log = logging.getLogger(__name__)

Mode = Literal["verify", "recorded"]
Finding = dict[str, Any]
MODES: dict[str, Callable[..., Report]] = {"verify": verify, "recorded": recorded}
SHARD = 20
PAGE = 200


class Drifted(AnyloomError):
    """Stored turns no longer come out as they were recorded."""


def turn_ids(store: Store, model: str | None = None, limit: int | None = None) -> Iterator[str]:
    """Ids of the stored turns (of one model), newest first, erased ones left out."""
    before, given = None, 0
    while page := store.turns(limit=PAGE, before=before):
        for turn in page:
            if turn.erased is None and (model is None or turn.model == model):
                if limit is not None and given >= limit:
                    return
                given += 1
                yield turn.id
        before = page[-1].number


def checked(turns: Sequence[str], replay: Callable[[str], Report]) -> list[Finding]:
    """What a replay of each turn found; a turn that can't be replayed is a finding too and stops no other."""
    found = []
    for turn in turns:
        try:
            report = replay(turn)
            parts = sorted({finding.part for finding in report.findings})
            said = "; ".join(finding.detail for finding in report.findings)
            found.append({"turn": turn, "verdict": report.verdict, "changed": ", ".join(parts), "detail": said})
        except Exception as error:
            # One unreadable turn is a finding, not the end of the inspection.
            found.append({"turn": turn, "verdict": "failed", "changed": "", "detail": reason(error)})
    return found


@task(name="replay", task_run_name="replay {number}", cache_policy=NO_CACHE, persist_result=False)
def reverify_shard(turns: list[str], mode: Mode, model: str, number: int) -> list[Finding]:
    """`checked` with this process's engine and store."""
    place = workplace(model, settings().device, _database())
    return checked(turns, lambda turn: MODES[mode](place.engine, place.store, turn))


@flow(
    name="reverify",
    flow_run_name="reverify {mode}",
    task_runner=cast(Any, ThreadPoolTaskRunner(max_workers=1)),  # one engine, and a replay fills it
    persist_result=False,
)
def reverify(
    mode: Mode = "verify", model: str | None = None, limit: int | None = None, max_drifted_share: float = 0.0
) -> Any:
    """Replay stored turns and report drift.

    Args:
        mode: "verify" redoes the sampling decisions, "recorded" makes the media again.
        model: Replay turns of this model only, with it; by default of the model that ANYLOOM_MODEL names.
        limit: At most so many turns, newest first.
        max_drifted_share: The run fails if more than this share of the turns came out different.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"A limit of {limit} turns came; give 1 or more, or none for all.")
    name = model or settings().model
    try:
        place = workplace(name, settings().device, _database())
        ids = list(turn_ids(place.store, place.engine.name, limit))
        shards = [ids[start : start + SHARD] for start in range(0, len(ids), SHARD)]
        futures = [reverify_shard.submit(shard, mode, name, number) for number, shard in enumerate(shards, 1)]
        findings: list[Finding] = []
        for future in futures:
            findings += future.result()
            watcher().moved(len(findings), len(drifted(findings)), len(ids))
    finally:
        close_workplaces()
    return judged(findings, max_drifted_share)


def drifted(findings: Sequence[Finding]) -> list[Finding]:
    """Those that came out different, or could not be replayed."""
    return [finding for finding in findings if finding["verdict"] not in ("identical", "close")]


def judged(findings: Sequence[Finding], allowed: float) -> Any:
    """The run's end state. Raises Drifted if more turns than allowed came out different."""
    verdicts, changed = Counter(finding["verdict"] for finding in findings), drifted(findings)
    told = f"{len(findings)} turns: {json.dumps(dict(sorted(verdicts.items())))}"
    watcher().answer.update(turns=len(findings), verdicts=dict(sorted(verdicts.items())), drifted=changed)
    if FlowRunContext.get() is not None and findings:
        create_table_artifact(table=changed or [{"turns": len(findings)}], key="reverify", description=told)
    if findings and len(changed) / len(findings) > allowed:
        first = changed[0]
        raise Drifted(f"{told}; the first is {first['turn']}: {first['detail'] or first['verdict']}.")
    return Completed(message=told)


def run_reverify(
    mode: str = "verify",
    *,
    model: str | None = None,
    limit: int | None = None,
    max_drifted_share: float = 0.0,
    quiet: bool = False,
) -> Answer:
    """Run the flow here and now, its progress on stderr unless `quiet`; what came of it: how many turns, how many of
    which verdict, and those that drifted. Raises UnknownName, SettingsError or StoreError for what can't be used,
    before anything is started."""
    if mode not in MODES:
        raise UnknownName(f"There is no mode named {mode!r}; use one of {', '.join(MODES)}.")
    model_folder(model or settings().model)
    check_database(_database())
    open_store(_database()).close()
    check_server()
    options = {"mode": mode, "model": model, "limit": limit, "max_drifted_share": max_drifted_share}
    return begun(reverify, options, quiet, ("reverify", mode), Drifted, "replaying")


def _database() -> str:
    database = settings().database
    if database is None:
        raise SettingsError("No database is set; set ANYLOOM_DATABASE_URL or ANYLOOM_HOME.")
    return database
