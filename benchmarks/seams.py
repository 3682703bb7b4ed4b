"""What cutting a long recording into pieces costs: the speech codec in overlapped pieces beside the same all at once.

    python benchmarks/seams.py [MODEL] [SECONDS]

Pieces of 15 s are heard with 1 s more on both sides, which is cut off again. Prints the share of codes that differ and
the largest and mean difference of the samples, against the loudest sample, near the seams and elsewhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import anyloom
from anyloom.anygpt_model.codecs import speech
from anyloom.anygpt_model.media import Limits, read_audio, resample

SAMPLE = Path(anyloom.__file__).parent / "app" / "samples" / "question.wav"
NEAR_SECONDS = 0.5


def recording(seconds: float, rate: int) -> NDArray[np.float32]:
    """Real speech of that length: the demo's question, again and again."""
    samples, given = read_audio(SAMPLE.read_bytes(), Limits())
    once = resample(samples, given, rate)
    return np.resize(once, round(seconds * rate)).astype(np.float32)


def measured(codec: Any, seconds: float) -> dict[str, float]:
    """The differences, as shares: of codes of all levels and of level 1, and of the loudest sample."""
    sound = recording(seconds, codec.sample_rate)
    pieces = codec.all_levels(sound)
    parts = codec.wave(pieces).cpu().numpy()
    usual, speech.PIECE_SECONDS = speech.PIECE_SECONDS, seconds + 1
    try:
        whole = codec.all_levels(sound)
        once = codec.wave(pieces).cpu().numpy()
    finally:
        speech.PIECE_SECONDS = usual
    error = np.abs(parts - once) / np.abs(once).max()
    seams = np.arange(usual, seconds, usual) * codec.sample_rate
    reach = NEAR_SECONDS * codec.sample_rate
    near = np.any([np.abs(np.arange(len(error)) - seam) < reach for seam in seams], axis=0)
    return {
        "seams": len(seams),
        "codes": float((pieces != whole).float().mean()),
        "level_1_codes": float((pieces[0] != whole[0]).float().mean()),
        "largest_near_seams": float(error[near].max(initial=0)),
        "mean_near_seams": float(error[near].mean()),
        "largest_elsewhere": float(error[~near].max(initial=0)),
    }


def main(model: str = "pocket", seconds: float = 40.0) -> dict[str, float]:
    """Open the model's speech codec and measure."""
    with anyloom.load_engine(model, modalities=("text", "speech")) as engine:
        return measured(engine.codec("speech"), seconds)


if __name__ == "__main__":
    name, length = (*sys.argv[1:], *("pocket", "40")[len(sys.argv) - 1 :])[:2]
    sys.stdout.write(
        json.dumps({key: float(f"{value:.3g}") for key, value in main(name, float(length)).items()}) + "\n"
    )
