"""How often the detector of speech and music is wrong: held-out tunes, held-out readings, and recordings of a person.

The detector of voices was trained by others and has no part in the recipe; thresholds are ours, and were chosen on the
training half of tunes and readings and on every other recording: what is measured here is the rest. Knows no codec.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..sound_kind import sound_kind
from ..values import Modality
from . import music_data, real_recordings
from .speech_data import SAMPLE_RATE, read_shards

log = logging.getLogger(__name__)

Samples = NDArray[np.float32]


def tunes(work: Path) -> Iterator[tuple[Samples, int]]:
    """The held-out clips of music."""
    sounds = music_data.audio(work)
    for number, row in enumerate(music_data.rows(work)):
        if row["split"] == "test":
            yield sounds[number].astype(np.float32) / np.float32(32768), music_data.SAMPLE_RATE


def readings(work: Path) -> Iterator[tuple[Samples, int]]:
    """The held-out sentences and the held-out voice."""
    for reading, samples in read_shards(work):
        if reading.split == "test":
            yield samples.astype(np.float32) / np.float32(32768), SAMPLE_RATE


def recordings(work: Path) -> Iterator[tuple[Samples, int]]:
    """Telephone prompts of at least half a second: every second one, for thresholds were chosen on the others."""
    spoken = [file for file in real_recordings.files(work).values() if file.stat().st_size >= SAMPLE_RATE // 4]
    for file in spoken[1::2]:
        yield real_recordings.sound(file), real_recordings.SAMPLE_RATE


def measure(work: Path, every: int = 1) -> dict[str, dict[str, int]]:
    """Of each kind: how many sounds, and how many were called wrongly."""
    made = {}
    for name, sounds, speech in (
        ("tunes", tunes(work), False),
        ("readings", readings(work), True),
        ("recordings", recordings(work), True),
    ):
        kinds = [sound_kind(*sound) for number, sound in enumerate(sounds) if number % every == 0]
        wrong = sum((kind is Modality.SPEECH) is not speech for kind in kinds)
        made[name] = {"n": len(kinds), "wrong": wrong}
        log.info("%s: %s", name, made[name])
    return made


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work = Path(sys.argv[1])
    found = measure(work, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    (work / "sound_kind.json").write_text(json.dumps(found, indent=1), "utf-8")
