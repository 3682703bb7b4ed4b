"""`anyloom traces replay | verify | fork | diff`: proofs in the terminal. The work is graphs/replay.py's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Screen
from .files import writable_folder
from .opening import opened_engine, opened_store
from .say import out_folder, written

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..graphs.replay import Report
    from ..storage.store import Store

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
MODEL = click.option("--model", metavar="NAME|FOLDER", help="The model to replay with [default: the turn's own].")


@click.command()
@click.argument("turn")
@MODEL
@click.option("--draw", is_flag=True, help="Let the language model draw again with the same seed.")
@click.option("--restore", is_flag=True, help="Keep evicted media that came out identical.")
@AS_JSON
def replay(turn: str, model: str | None, draw: bool, restore: bool, as_json: bool) -> int:
    """Make TURN's media again from its stored ids, and say whether they are identical."""
    from ..graphs.replay import recorded, regenerate

    screen = Screen(as_json)
    with _both(screen, turn, model) as (engine, store), screen.waiting("Replaying …"):
        report = regenerate(engine, store, turn) if draw else recorded(engine, store, turn, restore=restore)
    return _told(screen, report, as_json)


@click.command()
@click.argument("turn")
@MODEL
@AS_JSON
def verify(turn: str, model: str | None, as_json: bool) -> int:
    """Redo every sampling decision of TURN in one forward pass."""
    from ..graphs.replay import verify as redo

    screen = Screen(as_json)
    with _both(screen, turn, model) as (engine, store), screen.waiting("Verifying …"):
        report = redo(engine, store, turn)
    return _told(screen, report, as_json)


@click.command()
@click.argument("turn")
@click.option("--at", type=int, help="Keep so many ids of the reply.")
@click.option("--segment", type=int, help="Keep what comes before this part of the reply (0: nothing).")
@click.option("--to", metavar="MODALITY", help="What the reply must hold now.")
@click.option("--voice", metavar="NAME", help="Another saved voice.")
@click.option("--seed", type=int, help="Another seed.")
@click.option("--temperature", type=float, help="Another temperature, for every modality.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the reply's media [default: out].")
@MODEL
@AS_JSON
def fork(
    turn: str, at: int | None, segment: int | None, out: Path | None, model: str | None, as_json: bool, **changes: Any
) -> None:
    """Keep the first ids of TURN, change something, and go on: another conversation begins."""
    from ..graphs.replay import fork as forked

    screen = Screen(as_json)
    folder = writable_folder(out_folder(out))
    wanted = {name: value for name, value in changes.items() if value is not None}
    with _both(screen, turn, model) as (engine, store):
        with screen.waiting("Going on …"):
            made = forked(engine, store, turn, at=at, segment=segment, **wanted)
        if not as_json:
            screen.line(" ".join(part.text for part in made.reply if part.text and part.kind == "content"))
        answer = written(made, store, folder, screen)
    screen.remark(f"turn {made.id[:8]}, forked from {turn}")
    if as_json:
        screen.json({**answer, "forked_from": made.options["forked_from"], "kept": made.options["forked_at"]})


@click.command()
@click.argument("one")
@click.argument("other")
@AS_JSON
def diff(one: str, other: str, as_json: bool) -> int:
    """Two turns side by side: settings, ids, words, pictures and sounds. Ends with 1 where they differ."""
    from ..graphs.replay import diff as compared

    screen = Screen(as_json)
    with opened_store() as store:
        found = compared(store, one, other)
    same = found["reply"]["identical"] and found["prompt"]["identical"] and not found["settings"]
    if as_json:
        screen.json({**found, "identical": same})
    else:
        for line in _diff_lines(found):
            screen.line(line)
    return 0 if same else 1


COMMANDS = (replay, verify, fork, diff)


@contextmanager
def _both(screen: Screen, turn: str, model: str | None) -> Iterator[tuple[Engine, Store]]:
    """The store, and the engine of the turn's own model unless another is named."""
    with opened_store() as store:
        stored = store.turn(turn)
        engine = opened_engine(screen, model or _model_of(stored.model))
        try:
            yield engine, store
        finally:
            engine.close()


def _model_of(name: str) -> str | None:
    """A turn names its model; one that was a folder is found by the settings."""
    from ..anygpt_model.checkpoints import POCKET, PUBLISHED

    return name if name in (POCKET, *PUBLISHED) else None


def _told(screen: Screen, report: Report, as_json: bool) -> int:
    """Show a report; 0 where everything came out as stored."""
    if as_json:
        screen.json(_document(report))
        return 0 if report.verdict == "identical" else 1
    screen.line(f"{report.verdict}: {report.mode} replay of turn {report.turn[:8]} in {report.seconds:.1f} s")
    for check in report.media:
        how = "identical" if check.identical else "different"
        by = "" if check.distance in (None, 0.0) else f", by {check.distance:.3g} of full scale"
        kept = ", made again and kept" if check.stored.hash in report.restored else ""
        gone = "" if check.present else ", made again from its ids"
        screen.line(f"  {check.modality} {check.position}: {how}{by}{kept or gone} ({check.stored.content[:19]})")
    if report.verification is not None:
        found = report.verification
        screen.line(f"  {len(found.margins)} decisions redone, drift {found.drift:.2g} nats")
        if found.margins:
            screen.line(f"  least margin {min(found.margins):.3g}, removed by the grammar {max(found.removed):.3g}")
    for finding in report.findings:
        number = "" if finding.number is None else f": {finding.number:.6g}"
        prints = f" ({str(finding.stored)[:19]} -> {str(finding.now)[:19]})" if finding.stored else ""
        screen.line(f"  {finding.part}: {finding.detail}{number}{prints}")
    return 0 if report.verdict == "identical" else 1


def _document(report: Report) -> dict[str, Any]:
    document = asdict(report)
    document["made"] = report.made.id if report.made is not None else None
    return document


def _diff_lines(found: dict[str, Any]) -> Iterator[str]:
    for name, (one, other) in found["settings"].items():
        yield f"{name}: {one} | {other}"
    for name in ("prompt", "reply"):
        ids = found[name]
        alike = "identical" if ids["identical"] else f"alike for {ids['shared']}"
        yield f"{name}: {ids['counts'][0]} and {ids['counts'][1]} ids, {alike}"
    if not found["text"]["identical"]:
        yield "words: " + " ".join(found["text"]["changed"])
    for kind, pairs in found["media"].items():
        for number, pair in enumerate(pairs):
            if "missing" in pair:
                yield f"{kind} {number}: missing in the {pair['missing']}"
            else:
                distance = "not comparable" if pair["distance"] is None else f"{pair['distance']:.3g} of full scale"
                yield f"{kind} {number}: {'identical' if pair['identical'] else distance}"
