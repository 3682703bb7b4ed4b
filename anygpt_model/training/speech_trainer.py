"""Trains the pocket's speech codec on what has been read aloud, level 1 pulled to phones and a recogniser's encoder.

Level 1 has dimensions of its own, which say what is said and nothing else: a recogniser's features and the phone that
is spoken are what it learns, whoever speaks. The teacher (Whisper tiny.en) never judges: the judge is another one.
Knows nothing of the language model and of SoundStorm.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs.frame_codec import FrameCodec, FrameCodecConfig
from .frame_codec_trainer import Batch, CodecTrainer, CodecTraining, Meaning
from .sizes import sized
from .speech_data import DEFAULT_VOICE, FRAME, SAMPLE_RATE, STATES, Reading, as_wave, read_labelled, read_shards
from .speech_teacher import reading_key, taught_features

log = logging.getLogger(__name__)

CODEC = FrameCodecConfig(width=192, encoder_blocks=4, decoder_blocks=5)
CROP_FRAMES = 50
BATCH = 8
READINGS = {DEFAULT_VOICE: 1200}
FEWER_READINGS = 500
"""Of each voice: two and a half hours in all, a third of them by the voice that is spoken with."""
SPEEDS = (0.82, 0.88, 0.94, 1.0, 1.0, 1.07, 1.14, 1.22)
"""Playing speeds in training: other pitches and vocal tracts than the voices of the data have."""
COLOURED, NOISY = 0.4, 0.2
"""Shares of the crops that come as through another microphone, and in noise."""

Samples = NDArray[np.float32]
Labelled = tuple[Reading, NDArray[np.int16], NDArray[np.uint8]]
MEANING = Meaning(dims=32, vectors=256, labels=STATES)


class SpeechBatches:
    """Random crops of trained readings, each reading at a speed and each crop at a level of its own."""

    def __init__(self, work: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        readings = balanced([each for each in read_labelled(work) if each[0].split == "train"])
        taught = taught_features(work, [(reading, samples) for reading, samples, _ in readings])
        self._sounds: list[tuple[Samples, NDArray[np.float16], NDArray[np.uint8]]] = []
        for reading, samples, labels in readings:
            speed = float(self._rng.choice(SPEEDS))
            wave = whole(played(as_wave(samples), speed))
            frames = len(wave) // FRAME
            features = taught[reading_key(reading)]
            self._sounds.append((wave, stretched(features, frames), stretched(labels, frames)))
        minutes = sum(len(wave) for wave, _, _ in self._sounds) / SAMPLE_RATE / 60
        log.info("%d sounds to train on, %.1f minutes", len(self._sounds), minutes)

    def __call__(self) -> Batch:
        crops = [self._crop(int(self._rng.integers(len(self._sounds)))) for _ in range(BATCH)]
        waves, features, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True))
        return waves, (features, labels)

    def _crop(self, index: int) -> tuple[Samples, Samples, NDArray[np.int64]]:
        wave, features, labels = self._sounds[index]
        start = int(self._rng.integers(0, max(1, len(labels) - CROP_FRAMES + 1)))
        cut = wave[start * FRAME : (start + CROP_FRAMES) * FRAME]
        frames = slice(start, start + CROP_FRAMES)
        short = CROP_FRAMES - len(labels[frames])
        gain = 10 ** (self._rng.uniform(-8, 3) / 20)
        loud = changed(np.pad(cut, (0, short * FRAME)) * gain, self._rng)
        heard = np.pad(features[frames].astype(np.float32), ((0, short), (0, 0)))
        return loud, heard, np.pad(labels[frames].astype(np.int64), (0, short))


def balanced(readings: list[Labelled]) -> list[Labelled]:
    """The first READINGS of each voice."""
    count: Counter[str] = Counter()
    kept = []
    for each in readings:
        voice = each[0].voice
        count[voice] += 1
        if count[voice] <= READINGS.get(voice, FEWER_READINGS):
            kept.append(each)
    return kept


def changed(wave: Samples, rng: np.random.Generator) -> Samples:
    """`wave` as it might arrive from elsewhere: now and then in another colour (a smooth curve of about 5 dB over the
    pitches), now and then in noise; clipped to -1..1."""
    if rng.random() < COLOURED:
        points = np.linspace(0, 1, 7)
        # Evenly over the logarithm of the frequency, from 60 Hz up to half the rate.
        where = np.log(np.linspace(60, SAMPLE_RATE / 2, len(wave) // 2 + 1) / 60) / math.log(SAMPLE_RATE / 2 / 60)
        decibels = np.interp(where, points, rng.normal(0, 5, len(points)))
        wave = np.fft.irfft(np.fft.rfft(wave) * 10 ** (decibels / 20), len(wave)).astype(np.float32)
    if rng.random() < NOISY:
        level = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(18, 40) / 20)
        wave = wave + rng.normal(0, 1, len(wave)) * level
    bounded: Samples = np.clip(wave, -1, 1).astype(np.float32)
    return bounded


def stretched(features: NDArray[Any], frames: int) -> NDArray[Any]:
    """`features` [n, …] at `frames` moments evenly spread: what was heard, in a sound played at another speed."""
    where = np.minimum((np.arange(frames) + 0.5) * len(features) / frames, len(features) - 1)
    return features[where.astype(np.int64)]


def played(wave: Samples, speed: float) -> Samples:
    """`wave` played `speed` times as fast: tempo and pitch rise together."""
    if speed == 1.0:
        return wave
    import soxr

    made: Samples = soxr.resample(wave, SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ").astype(np.float32)
    return made


def whole(wave: Samples) -> Samples:
    """`wave` with silence up to a whole frame."""
    return np.pad(wave, (0, -len(wave) % FRAME))


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "speech-codec": trains within `minutes` (all its runs together) and writes `work`/speech/codec.

    Where a codec is there without the checkpoint of its training (the shipped one, say), training starts from it.
    """
    torch.set_num_threads(1)
    start = load_codec(work) if (work / "speech" / "codec").is_dir() else None
    training = CodecTraining(minutes, seed, meaning=MEANING)
    trainer = CodecTrainer(sized(work, "speech", CODEC), training, work / "speech" / "codec.pt", start)
    codec = trainer.fit(SpeechBatches(work, seed))
    codec.save_folder(work / "speech" / "codec", "ckpt.safetensors")


def held_out_readings(work: Path) -> list[tuple[Reading, Samples]]:
    """What has been read of the held-out texts and by the held-out voice."""
    return [(reading, as_wave(samples)) for reading, samples in read_shards(work) if reading.split == "test"]


def load_codec(work: Path) -> FrameCodec:
    """The codec that the stage wrote."""
    return FrameCodec.from_folder(work / "speech" / "codec")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
