"""`anyloom demo`: the whole once through, on the pocket. Three turns are kept, their media dropped, one is replayed.

Works on a picture and a recording that travel with the package, in a store of its own beside what it makes, so that
the user's own conversations stay untouched. Adds nothing that `say` and `traces replay` can't do.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from ..anygpt_model.errors import ReplayError
from ..anygpt_model.values import Modality
from .console import Screen
from .files import writable_folder
from .opening import opened_engine
from .say import Input, written

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..anygpt_model.values import Turn
    from ..storage.store import Store


@dataclass(frozen=True)
class Step:
    """One turn of the tour: what is said, which sample goes with it, what must come back."""

    words: str
    to: Modality
    sample: str | None = None
    kind: Modality | None = None


STEPS = (
    Step("What is this?", Modality.IMAGE, "picture.png", Modality.IMAGE),
    Step("", Modality.SPEECH, "question.wav", Modality.SPEECH),
    Step("play a slow waltz on the violin", Modality.MUSIC),
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="Folder.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same tour.")
def demo(out: Path, seed: int) -> None:
    """A picture and a recording in; a picture, a spoken answer and music out; stored, evicted, replayed."""
    from ..storage.store import open_store

    screen = Screen()
    folder = writable_folder(out)
    started = perf_counter()
    engine = opened_engine(screen, "pocket")
    with open_store(folder / "anyloom.db") as store:
        try:
            turns = [_taken(step, number, engine, store, folder, seed) for number, step in enumerate(STEPS, 1)]
            screen.line(f"\n{len(turns)} turns are stored in {folder / 'anyloom.db'}.")
            _proved(turns[1], engine, store, screen)
        finally:
            engine.close()
    screen.line(f"Done in {perf_counter() - started:.0f} s, {_peak_gb():.1f} GB at most; listen and look in {folder}/.")


def _taken(step: Step, number: int, engine: Engine, store: Store, folder: Path, seed: int) -> Turn:
    """One turn, said and shown."""
    from .turns import Asker

    screen = Screen()
    asked = " ".join(filter(None, (f"[{step.sample}]" if step.sample else "", step.words)))
    screen.line(f"\n{number}. {asked}  ->  {step.to.value}")
    inputs = [Input(_sample(step.sample), step.kind)] if step.sample else []
    turn = Asker(store, screen, step.to, {"seed": seed}).ask(engine, step.words, inputs)
    written(turn, store, folder, screen)
    return turn


def _sample(name: str) -> bytes:
    return (files(__package__) / "samples" / name).read_bytes()


def _proved(turn: Turn, engine: Engine, store: Store, screen: Screen) -> None:
    """Drop all generated media, make those of `turn` again from its ids. Raises ReplayError if they differ."""
    from ..graphs.replay import recorded

    dropped = store.evict()
    with screen.waiting("Replaying …"):
        report: Any = recorded(engine, store, turn.id, restore=True)
    if report.verdict != "identical" or not report.restored:
        raise ReplayError(f"The replay of turn {turn.id[:8]} came out {report.verdict}; run `anyloom traces verify`.")
    screen.line(
        f"The {len(dropped)} media that were made are dropped; those of turn {turn.id[:8]}, made again: identical."
    )


def _peak_gb() -> float:
    """Peak resident memory of this process in GB (the kernel counts in KiB; macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
