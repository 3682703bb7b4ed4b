"""Music with captions: folk tunes of the public domain, played by General MIDI instruments, five seconds a clip.

A plan says which tune is played on what and how fast; it is balanced over instruments, tempos and dance types, and a
tune is held out by the hash of its id. Samples go into one array, what is known of each clip into rows beside it.
Knows nothing of codecs and tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .downloads import debian_package, pip_package
from .music_abc import Tune, read_tunes

log = logging.getLogger(__name__)

SAMPLE_RATE = 24_000
SECONDS = 5.0
CLIPS = 3000
LOUDNESS = 0.1
"""Root mean square that a clip is brought to, unless its peak would pass PEAK."""
PEAK = 0.9
BOOKS = ("oneills1850", "ryansMammoth", "airdsAirs")
TEMPOS = {"slow": 70, "moderate": 110, "fast": 160}
"""Beats a minute of each tempo word."""

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Instrument:
    """A General MIDI program (from 0), and how far the tunes are moved to lie well on it, in semitones."""

    name: str
    program: int
    shift: int = 0


INSTRUMENTS = (
    Instrument("piano", 0), Instrument("guitar", 25, -12), Instrument("violin", 40), Instrument("flute", 73),
    Instrument("trumpet", 56), Instrument("church organ", 19), Instrument("glockenspiel", 9, 12),
    Instrument("harp", 46), Instrument("accordion", 21), Instrument("saxophone", 65, -12),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: what is played, and how. tempo: a word of TEMPOS. bpm: beats a minute. split: "train" or "test"."""

    tune: str
    title: str
    instrument: str
    tempo: str
    bpm: int
    metre: str
    type: str
    key: str
    caption: str
    captions: tuple[str, ...]
    split: str


def captions(tempo: str, kind: str, instrument: str, key: str, metre: str) -> tuple[str, ...]:
    """Ways to say what is heard; the first one is the plain one that evaluation uses."""
    article = "an" if tempo[0] in "aeiou" else "a"
    of_kind = "an" if kind[0] in "aeiou" else "a"
    return (
        f"{article} {tempo} {kind} on the {instrument}",
        f"{article} {tempo} {kind} in {key} played on the {instrument}",
        f"{instrument} music: {of_kind} {kind} in {metre}, {tempo} tempo",
        f"{article} {tempo} {instrument} tune, {of_kind} {kind}",
    )


def split_of(tune: str) -> str:
    """ "test" for a tenth of the tunes, by the hash of the id."""
    return "test" if int(hashlib.sha256(tune.encode()).hexdigest(), 16) % 10 == 0 else "train"


def tunes_of(corpus: Path) -> list[Tune]:
    """Every readable tune of the three collections, each title once, in a fixed shuffled order."""
    found: dict[str, Tune] = {}
    for book in BOOKS:
        for file in sorted((corpus / book).glob("*.abc")):
            for tune in read_tunes(file.read_text("utf-8", "replace"), f"{book}/{file.stem}"):
                found.setdefault(tune.title.lower().strip(" ."), tune)
    return sorted(found.values(), key=lambda tune: hashlib.sha256(tune.id.encode()).digest())


def plan(tunes: list[Tune], clips: int = CLIPS) -> list[tuple[Tune, Clip]]:
    """Which tune is played on what and how fast: dance types take turns until used up, so do instruments and tempos."""
    waiting: dict[str, list[Tune]] = defaultdict(list)
    for tune in tunes:
        waiting[tune.kind].append(tune)
    ways = [(instrument.name, tempo) for instrument in INSTRUMENTS for tempo in TEMPOS]
    # Each split walks through the ways by itself: the held-out clips are as balanced as the others.
    ways_of = {"train": cycle(ways), "test": cycle(ways)}
    made: list[tuple[Tune, Clip]] = []
    while len(made) < clips and any(waiting.values()):
        for kind in sorted(waiting):
            if waiting[kind] and len(made) < clips:
                tune = waiting[kind].pop()
                made.append((tune, _clip(tune, *next(ways_of[split_of(tune.id)]))))
    return made


def _clip(tune: Tune, instrument: str, tempo: str) -> Clip:
    said = captions(tempo, tune.kind, instrument, tune.key, tune.metre)
    bpm = TEMPOS[tempo]
    return Clip(
        tune.id, tune.title, instrument, tempo, bpm, tune.metre, tune.kind, tune.key, said[0], said, split_of(tune.id)
    )


class Player:
    """Plays tunes with a sound font. Raises CheckpointError where the synthesizer isn't installed."""

    def __init__(self, font: Path) -> None:
        try:
            import tinysoundfont
        except ImportError as missing:
            raise CheckpointError(
                "Playing tunes needs tinysoundfont; install it with `pip install --no-deps tinysoundfont==0.3.7` "
                "(its audio device package is not needed)."
            ) from missing
        self._synth: Any = tinysoundfont.Synth(samplerate=SAMPLE_RATE, gain=-6)
        self._font = self._synth.sfload(str(font))

    def play(self, tune: Tune, instrument: Instrument, bpm: int, seconds: float = SECONDS) -> Wave:
        """float32 [seconds * SAMPLE_RATE] mono; a tune that is shorter starts again, as its repeat sign asks."""
        self._synth.sounds_off()
        self._synth.program_select(0, self._font, 0, instrument.program)
        events = sorted(_events(tune, 60 / bpm / tune.beat, instrument.shift, seconds))
        pieces, done, end = [], 0, round(seconds * SAMPLE_RATE)
        for at, on, pitch, velocity in [*events, (seconds, False, 0, 0)]:
            until = min(end, round(at * SAMPLE_RATE))
            if until > done:
                pieces.append(np.frombuffer(bytes(self._synth.generate(until - done)), np.float32))
                done = until
            if on:
                self._synth.noteon(0, pitch, velocity)
            else:
                self._synth.noteoff(0, pitch)
        return _levelled(np.concatenate(pieces).reshape(-1, 2).mean(1))


def _events(tune: Tune, quarter: float, shift: int, seconds: float) -> list[tuple[float, bool, int, int]]:
    """(second, on, pitch, velocity) of every note that starts in time. quarter: seconds of a quarter note."""
    events: list[tuple[float, bool, int, int]] = []
    for turn in range(64):
        for note in tune.notes:
            start = (turn * tune.length + note.onset) * quarter
            if start >= seconds:
                return events
            beats = (note.onset - tune.pickup) / tune.beat
            velocity = 115 if abs(beats - round(beats)) < 0.01 else 85
            events.append((start, True, note.pitch + shift, velocity))
            events.append((start + 0.95 * note.duration * quarter, False, note.pitch + shift, 0))
    return events


def _levelled(wave: Wave) -> Wave:
    """At the common loudness, faded out over the last 20 ms so that a clip doesn't end in a click."""
    fade = SAMPLE_RATE // 50
    wave = wave.copy()
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    gain = min(LOUDNESS / (float(np.sqrt(np.mean(wave**2))) + 1e-9), PEAK / (float(np.abs(wave).max()) + 1e-9))
    levelled: Wave = wave * np.float32(gain)
    return levelled


def folder(work: Path) -> Path:
    """Where this stage keeps its files."""
    return work / "music"


def rows(work: Path) -> list[dict[str, Any]]:
    """The rows of all clips, in the order of the audio array: a Clip's fields each."""
    found: list[dict[str, Any]] = json.loads((folder(work) / "clips.json").read_text("utf-8"))
    return found


def audio(work: Path) -> NDArray[np.int16]:
    """int16 [clips, samples] at SAMPLE_RATE, mapped from the file."""
    mapped: NDArray[np.int16] = np.load(folder(work) / "audio.npy", mmap_mode="r")
    return mapped


def run(work: Path, minutes: float = 0, device: str = "cpu", seed: int = 0, clips: int = CLIPS) -> None:
    """Writes music/audio.npy and music/clips.json, once. Time, device and seed don't matter: the plan is fixed."""
    target = folder(work)
    if (target / "clips.json").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    downloads = work / "downloads"
    corpus = pip_package("music21", "10.5.1", downloads) / "music21/corpus"
    font = debian_package("fluid-soundfont-gm", "3.1-5.3", downloads) / "usr/share/sounds/sf2/FluidR3_GM.sf2"
    planned = plan(tunes_of(corpus), clips)
    player, instruments = Player(font), {instrument.name: instrument for instrument in INSTRUMENTS}
    sounds = np.zeros((len(planned), round(SECONDS * SAMPLE_RATE)), np.int16)
    for number, (tune, clip) in enumerate(planned):
        wave = player.play(tune, instruments[clip.instrument], clip.bpm)
        sounds[number] = np.round(wave * 32767).astype(np.int16)
        if number % 200 == 0:
            log.info("music data: %d of %d clips", number, len(planned))
    np.save(target / "audio.npy", sounds)
    (target / "clips.json").write_text(json.dumps([asdict(clip) for _, clip in planned], indent=0), "utf-8")
