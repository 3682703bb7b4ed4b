"""Spoken sentences: the texts of `sentences` read aloud by flite's voices, kept as shards of 16 kHz samples.

flite speaks forty times faster than time passes and says which phone it speaks when, so each 20 ms frame comes with its
phone, and in which third of it the frame lies. The held-out voice and the held-out texts are never trained on. Knows
nothing of codecs and tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import CheckpointError
from .downloads import debian_package
from .sentences import more, utterances

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
FRAME = 320
"""Samples of one 50 Hz frame: utterances are padded to whole frames."""
DEFAULT_VOICE = "slt"
"""Whose words the language model learns to say: one voice says the same words the same way."""
TRAIN_VOICES = (DEFAULT_VOICE, "rms", "awb")
TEST_VOICE = "kal16"
MORE = "more"
"""The group of what the default voice reads beside, for speaking alone."""
PACE = 1.1
"""How much longer than flite's own a phone takes: a recogniser errs less."""
SHARD = 200
EDGE_S = 0.1
PEAK = 0.7
PHONES = (
    *("pau", "aa", "ae", "ah", "ao", "aw", "ax", "axr", "ay", "b", "ch", "d", "dh", "dx", "eh", "er", "ey", "f", "g"),
    *("hh", "hv", "ih", "iy", "jh", "k", "l", "m", "n", "nx", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th"),
    *("uh", "uw", "v", "w", "y", "z", "zh", "ssil"),
)
PARTS = 3
STATES = len(PHONES) * PARTS
"""What a frame may be labelled: a third of a phone."""

Wave = NDArray[np.float32]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reading:
    """Who reads which text: one utterance of the plan."""

    text: str
    voice: str
    split: str
    group: str


def plan() -> list[Reading]:
    """Every reading: each text by the default voice, then by one of the others, and tested ones by the held-out one;
    last what the default voice reads beside."""
    texts = utterances()
    first = [Reading(u.text, DEFAULT_VOICE, u.split, u.group) for u in texts]
    others = [Reading(u.text, _other_voice(u.text), u.split, u.group) for u in texts]
    unseen = [Reading(u.text, TEST_VOICE, "test", u.group) for u in texts if u.split == "test"]
    return [*first, *others, *unseen, *(Reading(text, DEFAULT_VOICE, "train", MORE) for text in more())]


def _other_voice(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return TRAIN_VOICES[1 + digest[8] % (len(TRAIN_VOICES) - 1)]


class Speaker:
    """The data-only voices: a program that turns text into samples and names its phones."""

    def __init__(self, downloads: Path) -> None:
        program, libraries = (debian_package(name, "2.2-5", downloads) for name in ("flite", "libflite1"))
        found = next(libraries.rglob("libflite.so.1"), None)
        if found is None:
            raise CheckpointError(f"{libraries} holds no libflite.so.1; delete it and run the stage data again.")
        self._program = str(program / "usr/bin/flite")
        self._environment = {**os.environ, "LD_LIBRARY_PATH": str(found.parent)}

    def say(self, reading: Reading, scratch: Path) -> tuple[Wave, Labels]:
        """float32 [samples] at SAMPLE_RATE: trimmed, its peak at PEAK, whole frames; and the label of each frame."""
        sound = scratch / "said.wav"
        command = [self._program, "-psdur", "-voice", reading.voice, "--setf", f"duration_stretch={PACE}"]
        done = subprocess.run(
            [*command, "-t", reading.text, "-o", str(sound)],
            env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise CheckpointError(f"flite could not speak ({done.stderr.strip()[-200:]}); it needs ALSA's libasound2.")
        wave, _ = soundfile.read(sound, dtype="float32")
        return tidy(wave, labels_of(done.stdout, len(wave)))


def labels_of(told: str, samples: int) -> Labels:
    """Of each sample the label that flite's list of phones and their ends in seconds gives it ("dh:0.27 ih:0.33 …")."""
    labels = np.zeros(samples, np.uint8)
    start = 0.0
    for entry in told.split():
        phone, _, end = entry.rpartition(":")
        number = PHONES.index(phone)
        for part in range(PARTS):
            begins = round((start + (float(end) - start) * part / PARTS) * SAMPLE_RATE)
            labels[begins:] = number * PARTS + part
        start = float(end)
    return labels


def tidy(wave: Wave, labels: Labels) -> tuple[Wave, Labels]:
    """A sound without the silence at its edges, at its level, in whole frames; labels of samples become frames'."""
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    edge = int(EDGE_S * SAMPLE_RATE)
    kept = slice(max(0, int(loud[0]) - edge), int(loud[-1]) + edge)
    cut = wave[kept]
    level = (cut / (np.abs(cut).max() + 1e-6) * PEAK).astype(np.float32)
    short = -len(level) % FRAME
    return np.pad(level, (0, short)), np.pad(labels[kept], (0, short))[FRAME // 2 :: FRAME]


def synthesise(work: Path) -> None:
    """Read what of the plan nobody has read yet into `work`/speech/audio."""
    speaker = Speaker(work / "downloads")
    target = work / "speech" / "audio"
    target.mkdir(parents=True, exist_ok=True)
    done = {(reading.text, reading.voice) for reading, _, _ in read_labelled(work)}
    left = [reading for reading in plan() if (reading.text, reading.voice) not in done]
    for start in range(0, len(left), SHARD):
        readings = left[start : start + SHARD]
        said = [speaker.say(reading, target) for reading in readings]
        write_shard(target / f"{time.time_ns():020d}.npz", readings, said)
        log.info("speech data: %d of %d readings", start + len(readings), len(left))
    (target / "said.wav").unlink(missing_ok=True)


def write_shard(target: Path, readings: list[Reading], said: Sequence[tuple[Wave, Labels]]) -> None:
    """Writes one shard whole or not at all: samples and labels end to end, lengths, and the readings as JSON."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".part")
    samples = np.concatenate([np.round(wave * 32767).astype(np.int16) for wave, _ in said])
    labels = np.concatenate([labels for _, labels in said])
    about = json.dumps([asdict(reading) for reading in readings])
    with fresh.open("wb") as out:
        lengths = np.array([len(wave) for wave, _ in said])
        np.savez(out, samples=samples, labels=labels, lengths=lengths, about=np.array(about))
    fresh.rename(target)


def read_labelled(work: Path) -> list[tuple[Reading, NDArray[np.int16], Labels]]:
    """Every utterance spoken so far, in the order of its making: its reading, its samples and its frames' labels."""
    found = []
    for shard in sorted((work / "speech" / "audio").glob("*.npz")):
        with np.load(shard, allow_pickle=False) as opened:
            ends = np.cumsum(opened["lengths"])[:-1]
            readings = [Reading(**entry) for entry in json.loads(str(opened["about"]))]
            samples, labels = np.split(opened["samples"], ends), np.split(opened["labels"], ends // FRAME)
            found += list(zip(readings, samples, labels, strict=True))
    return found


def read_shards(work: Path) -> list[tuple[Reading, NDArray[np.int16]]]:
    """Every utterance spoken so far: its reading and its samples as int16."""
    return [(reading, samples) for reading, samples, _ in read_labelled(work)]


def as_wave(samples: NDArray[np.int16]) -> Wave:
    """float32 in -1..1 of a shard's samples."""
    wave: Wave = samples.astype(np.float32) / np.float32(32768)
    return wave


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "speech-data": speaks the sentences, in about ten minutes whatever `minutes` says."""
    synthesise(work)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    synthesise(Path(sys.argv[1]))
