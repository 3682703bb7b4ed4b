"""`anyloom train evaluate`: every direction of the pocket, by outside judges, on held-out data.

Each row tells the model's score beside three others by the same judge: chance (the model's own answers, each taken for
another case's), our codec's round trip of real data, and the ceiling (real data). Without an engine the last and what
real data shuffled give are told. Knows no training.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from . import samples
from .asking import Asker
from .directions.direction import Case, Direction, Made, Measure, digest
from .directions.pictures import ImageToText, PictureWorld, Restyled, TextToImage
from .directions.scenes import SceneChanged, SceneToText, SceneWorld, TextToScene
from .directions.sounds import CodecAlone, RealRecordings, SpeechToText, SpokenAnswer, SpokenWorld, TextToSpeech
from .directions.tunes import MusicToText, MusicWorld, TextToMusic
from .directions.voices import PromptedVoice
from .judges.bounds import Score
from .other_voices import TEST_VOICES
from .report import Report, Row, machine, table
from .speech_data import TEST_VOICE

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger(__name__)

LIMIT = 100
Progress = Callable[[str, int, int], None]
"""Called with what runs, how many of its cases are done, and how many there are."""


def pictures(work: Path) -> list[Direction]:
    """Text to image and back; single things, then scenes."""
    world = PictureWorld(work)
    composed = SceneWorld(world)
    unseen = TextToImage(world, "concept")
    scenes: list[Direction] = [TextToScene(composed), SceneChanged(composed), SceneToText(composed)]
    return [TextToImage(world), unseen, Restyled(world), ImageToText(world), *scenes]


def speech(work: Path) -> list[Direction]:
    """Speaking, listening, answering aloud."""
    world = SpokenWorld(work)
    strange = SpeechToText(world, (TEST_VOICE,), "voice never heard")
    neural = SpeechToText(world, TEST_VOICES, "neural voices never heard")
    heard = [SpeechToText(world), strange, neural, RealRecordings(world)]
    return [CodecAlone(world), TextToSpeech(world), PromptedVoice(world), *heard, SpokenAnswer(world)]


def music(work: Path) -> list[Direction]:
    """Text to music and back."""
    world = MusicWorld(work)
    return [TextToMusic(world), MusicToText(world)]


GROUPS: dict[str, Callable[[Path], list[Direction]]] = {"pictures": pictures, "speech": speech, "music": music}
"""What can be evaluated by itself; each opens its own data."""


def evaluate(
    asker: Asker | None,
    asked: Iterable[Direction],
    limit: int,
    progress: Progress | None,
    keep: Path | None = None,
) -> Iterator[Row]:
    """Ask the first `limit` held-out cases of every direction and have the answers judged. A direction whose part of
    the model isn't there is left out, and the log says so. keep: a folder for samples of the answers."""
    for direction in asked:
        try:
            yield from _judged(direction, limit, asker, progress, keep)
        except CheckpointError as error:
            log.warning("%s: left out (%s)", direction.name, error)


def _judged(
    direction: Direction, limit: int, asker: Asker | None, progress: Progress | None, keep: Path | None
) -> list[Row]:
    cases = direction.cases(limit)
    if not cases:
        log.warning("%s: no held-out data; left out", direction.name)
        return []
    real = direction.real(cases, None)
    made = asker.answers(cases, _named(progress, direction.name)) if asker else None
    if keep and asker and made is not None:
        to = cases[0].prompt.to
        samples.write(keep, direction.name, cases, made, real or [None] * len(cases), asker.sample_rate(to))
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
    groups: Sequence[str] = tuple(GROUPS),
) -> Report:
    """Evaluate `model` (a name or a folder; None: real data only) and write `work/evaluation.json` and `.md`.

    groups: names of GROUPS. Rows of other groups that the same language model gave stay. Written after each group.
    """
    engine = None
    if model is not None:
        from ..engine import load_engine

        engine = load_engine(model, device=device)
    asker = None if engine is None else Asker(engine)
    name, fingerprint = ("real data only", "") if engine is None else (engine.name, _fingerprint(engine))
    target = work / ("ceilings" if engine is None else "evaluation")
    try:
        for group in groups:
            began = time.monotonic()
            rows = tuple(evaluate(asker, GROUPS[group](work), limit, progress, work / "samples"))
            report = Report(name, fingerprint, machine(), time.monotonic() - began, rows).joined(_read(target))
            target.with_suffix(".json").write_text(report.to_json() + "\n", "utf-8")
            target.with_suffix(".md").write_text(report.to_markdown(), "utf-8")
    finally:
        if engine is not None:
            engine.close()
    return report


def _fingerprint(engine: Engine) -> str:
    """Of the language model, which every row depends on; groups are measured again when their codec has changed."""
    return engine.fingerprints["llm"].removeprefix("sha256:")[:12]


def _read(target: Path) -> Report | None:
    file = target.with_suffix(".json")
    try:
        return Report.from_json(file.read_text("utf-8")) if file.exists() else None
    except (ValueError, TypeError, KeyError):
        # A table of another version says nothing that could be joined.
        return None


def run(
    work: Path,
    minutes: float | None = None,
    device: str | None = None,
    seed: int = 0,
    model: str | None = "pocket",
    limit: int = LIMIT,
    groups: Sequence[str] = tuple(GROUPS),
) -> None:
    """The stage "evaluate": shows how far it is, then the table. Cases fix their seeds, and all are asked whatever it
    takes, so `minutes` and `seed` change nothing."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("opening")

        def shown(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        report = measure(work, model, limit, device, shown, groups)
    Console().print(table(report))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    folder, cases, *named = sys.argv[1:]
    run(Path(folder), limit=int(cases), groups=named or tuple(GROUPS))
