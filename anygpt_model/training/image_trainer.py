"""Stage "image": the tokenizer, then the pipeline that draws, then both put where the pocket keeps them.

Each part resumes from its own checkpoint. Knows neither networks nor losses.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import seed_trainer, unclip_trainer
from .image_loop import command

POCKET = Path(__file__).parents[1] / "pocket"
TOKENIZER_SHARE = 0.6


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train all of the pocket's pictures in `minutes` of processor time and publish them."""
    seed_trainer.run(work, minutes * TOKENIZER_SHARE, device, seed)
    unclip_trainer.run(work, minutes * (1 - TOKENIZER_SHARE), device, seed)
    publish(work)


def publish(work: Path, pocket: Path = POCKET) -> None:
    """Copy `work/image/seed` and `work/image/unclip` into the pocket, in place of what was there."""
    for part in ("seed", "unclip"):
        shutil.rmtree(pocket / part, ignore_errors=True)
        shutil.copytree(work / "image" / part, pocket / part, copy_function=shutil.copyfile)


if __name__ == "__main__":
    command(run, minutes=17)
