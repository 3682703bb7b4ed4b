"""Stage "image": the tokenizer, then the pipeline that draws. Each part resumes from its own checkpoint.

Knows neither networks nor losses.
"""

from __future__ import annotations

from pathlib import Path

from . import seed_trainer, unclip_trainer
from .image_loop import command

TOKENIZER_SHARE = 0.78


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train all of the pocket's pictures in `minutes` of processor time."""
    seed_trainer.run(work, minutes * TOKENIZER_SHARE, device, seed)
    unclip_trainer.run(work, minutes * (1 - TOKENIZER_SHARE), device, seed)


if __name__ == "__main__":
    command(run, minutes=13.5)
