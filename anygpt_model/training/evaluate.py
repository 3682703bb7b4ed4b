"""`anyloom train evaluate`: every direction of the pocket, by outside judges, on held-out data.

Each row tells the model's score beside three others by the same judge: chance (the model's own answers, each taken for
another case's), our codec's round trip of real data, and the ceiling (real data). Without an engine the last and what
real data shuffled give are told. Knows no training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .asking import Asker
from .directions.direction import Case, Direction, Made, Measure, digest
from .directions.pictures import ImageToText, PictureWorld, TextToImage
from .directions.sounds import SpeechToText, SpokenAnswer, SpokenWorld, TextToSpeech
from .directions.tunes import MusicToText, MusicWorld, TextToMusic
from .judges.bounds import Score
from .report import Report, Row, machine, table

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger(__name__)

LIMIT = 100
Progress = Callable[[str, int, int], None]
"""Called with what runs, how many of its cases are done, and how many there are."""


def directions(work: Path) -> list[Direction]:
    """Every direction whose data lie under `work`, in the order of the table."""
    pictures, spoken, music = PictureWorld(work), SpokenWorld(work), MusicWorld(work)
    return [
        TextToImage(pictures),
        TextToImage(pictures, "concept"),
        ImageToText(pictures),
        TextToSpeech(spoken),
        SpeechToText(spoken),
        SpeechToText(spoken, unseen=True),
        TextToMusic(music),
        MusicToText(music),
        SpokenAnswer(spoken),
    ]


def evaluate(
    engine: Engine | None,
    asked: Iterable[Direction],
    limit: int = LIMIT,
    progress: Progress | None = None,
    asker: Asker | None = None,
) -> Report:
    """Ask `engine` the first `limit` held-out cases of every direction and have the answers judged."""
    began = time.monotonic()
    asker = asker or (Asker(engine) if engine is not None else None)
    rows: list[Row] = []
    for direction in asked:
        rows += _judged(direction, limit, asker, progress)
    name = engine.name if engine is not None else "no model: real data only"
    return Report(name, machine(), time.monotonic() - began, tuple(rows))


def _judged(direction: Direction, limit: int, asker: Asker | None, progress: Progress | None) -> list[Row]:
    cases = direction.cases(limit)
    if not cases:
        log.warning("%s: no held-out data; left out", direction.name)
        return []
    real = direction.real(cases, None)
    made = asker.answers(cases, _named(progress, direction.name)) if asker else None
    through = direction.real(cases, asker.round_trip) if asker else None
    shuffled = made if made is not None else real
    judged = [
        _scores(direction, answers, cases)
        for answers in (made, None if shuffled is None else another(shuffled, cases), through, real)
    ]
    return [
        _row(direction, measure, cases, scores) for measure, *scores in zip(direction.measures, *judged, strict=True)
    ]


def _scores(direction: Direction, answers: Sequence[Made] | None, cases: Sequence[Case]) -> Sequence[Score | None]:
    return [None] * len(direction.measures) if answers is None else direction.judge(answers, cases)


def another(answers: Sequence[Made], cases: Sequence[Case]) -> list[Made]:
    """Each case's answer given to the next case: what the same answers score without having heard the prompt."""
    return [answers[number - 1] for number in range(len(cases))]


def _row(direction: Direction, measure: Measure, cases: Sequence[Case], scores: Sequence[Score | None]) -> Row:
    return Row(direction.name, measure.name, measure.judge, measure.lower, len(cases), digest(cases), *scores)


def _named(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def measure(
    work: Path,
    model: str | None = "pocket",
    limit: int = LIMIT,
    device: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Evaluate `model` (a name or a folder; None: real data only) and write `work/evaluation.json` and `.md`."""
    engine = None
    if model is not None:
        from ..engine import load_engine

        engine = load_engine(model, device=device)
    try:
        report = evaluate(engine, directions(work), limit, progress)
    finally:
        if engine is not None:
            engine.close()
    name = "evaluation" if model is not None else "ceilings"
    (work / f"{name}.json").write_text(report.to_json() + "\n", "utf-8")
    (work / f"{name}.md").write_text(report.to_markdown(), "utf-8")
    return report


def run(
    work: Path,
    minutes: float | None = None,
    device: str | None = None,
    seed: int = 0,
    model: str | None = "pocket",
    limit: int = LIMIT,
) -> None:
    """The stage "evaluate": shows how far it is, then the table. Cases fix their seeds, and all are asked whatever it
    takes, so `minutes` and `seed` change nothing."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("opening")

        def shown(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        report = measure(work, model, limit, device, shown)
    Console().print(table(report))
