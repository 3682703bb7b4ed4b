"""The recipe's stages by name: which trainers each runs in which order, how long, and how parts become a model folder.

Every trainer resumes from its own checkpoint, so a stage may be called again with more minutes. Knows no network.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "pocket"
PARTS = {
    "image/seed": "seed",
    "image/unclip": "unclip",
    "speech/codec": "speechtokenizer",
    "speech/soundstorm": "soundstorm",
    "music/codec": "encodec",
    "language/llm": "llm",
}
"""Where trainers write, and what that is in a model folder."""


@dataclass(frozen=True, slots=True)
class Step:
    """One module of the recipe and its usual minutes of processor time (0: it takes what it takes)."""

    module: str
    minutes: float


STAGES: dict[str, tuple[Step, ...]] = {
    "data": (Step("image_data", 0), Step("music_data", 0), Step("speech_data", 0), Step("other_voices", 0)),
    "shipped": (Step("shipped", 0),),
    "image": (Step("image_trainer", 13.5),),
    "speech": (
        Step("speech_trainer", 35),
        Step("speech_tokens", 0),
        Step("soundstorm_trainer", 31),
        Step("speech_decoder_trainer", 12),
    ),
    "music": (Step("music_trainer", 15), Step("music_decoder_trainer", 13)),
    "language": (Step("language_trainer", 145),),
}
"""In the order in which they need each other; "shipped" takes the place of those before the one to train."""


def minutes_of(stage: str, minutes: float | None) -> list[tuple[str, float]]:
    """Each module of `stage` with its share of `minutes` (None: the usual ones)."""
    steps = STAGES[stage]
    whole = sum(step.minutes for step in steps)
    factor = 1.0 if minutes is None or not whole else minutes / whole
    return [(step.module, step.minutes * factor) for step in steps]


def run_stage(stage: str, work: Path, minutes: float | None, device: str, seed: int) -> None:
    """Run every module of `stage`, then put the parts together. Raises ModuleNotFoundError if a package is missing."""
    work.mkdir(parents=True, exist_ok=True)
    for module, share in minutes_of(stage, minutes):
        import_module(f".{module}", __package__).run(work=work, minutes=share, device=device, seed=seed)
    if stage != "data":
        assemble(work)


def assemble(work: Path, shipped: Path = SHIPPED) -> Path:
    """`work`/pocket: a model folder of the parts that `work` has, and of the shipped pocket's where it has none yet."""
    target = work / "pocket"
    for source, part in PARTS.items():
        trained = work / source
        chosen = trained if trained.is_dir() else shipped / part
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(chosen, target / part, copy_function=shutil.copyfile)
    return target
