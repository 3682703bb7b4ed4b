"""Every reading as codes: the frozen codec's eight levels, for the language model (level 1) and SoundStorm (all).

Each trained reading comes at its own speed and at another, so that the models after it hear more voices than there are;
those for speaking alone come as they are.
Knows nothing of what the codes are used for.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs.frame_codec import FrameCodec
from .speech_data import FRAME, MORE, as_wave, read_shards
from .speech_trainer import load_codec, played, whole

log = logging.getLogger(__name__)

SPEEDS = (0.88, 0.92, 0.96, 1.04, 1.08, 1.12)
"""The other speeds, in turn; a held-out reading is coded as it is."""
Levels = NDArray[np.uint16]


def coded(codec: FrameCodec, wave: NDArray[np.float32]) -> Levels:
    """uint16 [levels, frames] of one sound."""
    return codec.encode(torch.from_numpy(wave)[None])[0].numpy().astype(np.uint16)


def write_tokens(work: Path) -> None:
    """Codes everything read so far into `work`/speech/tokens.npz (codes end to end, their lengths) and tokens.json."""
    codec = load_codec(work)
    rows: list[dict[str, Any]] = []
    codes: list[Levels] = []
    for number, (reading, samples) in enumerate(read_shards(work)):
        wave = as_wave(samples)
        twice = reading.split == "train" and reading.group != MORE
        for speed in (1.0, SPEEDS[number % len(SPEEDS)])[: 2 if twice else 1]:
            codes.append(coded(codec, whole(played(wave, speed))))
            rows.append({**asdict(reading), "speed": speed})
    _write(work / "speech", rows, codes)
    frames = sum(part.shape[1] for part in codes)
    log.info("%d readings coded, %.1f minutes", len(rows), frames * FRAME / 16_000 / 60)


def _write(folder: Path, rows: list[dict[str, Any]], codes: list[Levels]) -> None:
    """Both files whole or not at all; the rows, which readers look for, come last."""
    fresh = folder / "tokens.part"
    with fresh.open("wb") as out:
        np.savez(out, codes=np.concatenate(codes, axis=1), lengths=np.array([part.shape[1] for part in codes]))
    fresh.rename(folder / "tokens.npz")
    about = folder / "tokens.json.part"
    about.write_text(json.dumps(rows), "utf-8")
    about.rename(folder / "tokens.json")


def read_tokens(work: Path) -> list[tuple[dict[str, Any], Levels]]:
    """What `write_tokens` wrote: each reading's row and its codes [levels, frames]."""
    rows = json.loads((work / "speech" / "tokens.json").read_text("utf-8"))
    with np.load(work / "speech" / "tokens.npz", allow_pickle=False) as opened:
        pieces = np.split(opened["codes"], np.cumsum(opened["lengths"])[:-1], axis=1)
    return list(zip(rows, pieces, strict=True))


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "speech-tokens"; it takes a minute, and nothing in it is drawn."""
    torch.set_num_threads(1)
    write_tokens(work)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), 0, "cpu", 0)
