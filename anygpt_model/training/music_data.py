"""Music with captions: folk tunes of the public domain, played by General MIDI instruments, five seconds a clip.

A plan says which tune is played on what and how fast; it is balanced over instruments, tempos and dance types, and a
tune is held out by the hash of its id. Every tune is moved to the white keys, starts with its first whole bar and is
accompanied by its own instrument, tonic and fifth in turn on the beats: the beat can be heard, a waltz goes
oom-pah-pah, and few different sounds make up the whole world. Samples go into one array, what is known of each clip
into rows beside it. Knows nothing of codecs and tokens, but that a beat is whole frames of the codec long.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .downloads import debian_package, pip_package
from .music_abc import Note, Tune, read_tunes

log = logging.getLogger(__name__)

SAMPLE_RATE = 24_000
SECONDS = 5.0
CLIPS = 3900
LOUDNESS = 0.1
"""Root mean square that an instrument's scale is brought to: clips of one instrument are all louder by the same."""
PEAK = 0.95
BOOKS = ("oneills1850", "ryansMammoth", "airdsAirs")
TEMPOS = {"slow": 90, "moderate": 120, "fast": 144}
"""Beats a minute of each tempo word: a beat is 8, 6 or 5 of the codec's frames, so that notes begin where frames do."""
MIDDLE, LOWEST = 71, 60
"""Tunes lie around the first, and within two octaves from the second (MIDI numbers)."""
HOMES = {"major": 48, "dorian": 50, "mixolydian": 43, "minor": 45}
"""The tonic of each mode on the white keys: C, D, G, A, as low as the accompaniment plays it."""
NAMES = {"major": "C major", "dorian": "D dorian", "mixolydian": "G mixolydian", "minor": "A minor"}
MELODY_VELOCITY, BASS_VELOCITY = 105, 100

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

Wave = NDArray[np.float32]
Event = tuple[float, bool, int, int, int]
"""Second, on, channel, pitch, velocity."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A General MIDI program (from 0), and how far a melody is moved to lie well on it, in semitones."""

    name: str
    program: int
    shift: int = 0


# The General MIDI programs that the judge of timbre can tell from each other, by trials on tunes that are trained on.
INSTRUMENTS = (
    Instrument("piano", 0), Instrument("guitar", 24, -12), Instrument("violin", 40), Instrument("flute", 73, 12),
    Instrument("trumpet", 56), Instrument("harp", 46), Instrument("church organ", 19), Instrument("accordion", 21),
    Instrument("banjo", 105, -12), Instrument("xylophone", 13, 12),
)  # fmt: skip
SCALE = Tune("", "", "", "4/4", "C major", 1, 0, 8, tuple(Note(n, 1, 60 + n * 2) for n in range(8)))
"""What an instrument's loudness is measured on."""


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
    key = NAMES[tune.key.rsplit(" ", 1)[1]]
    said = captions(tempo, tune.kind, instrument, key, tune.metre)
    bpm = TEMPOS[tempo]
    return Clip(
        tune.id, tune.title, instrument, tempo, bpm, tune.metre, tune.kind, key, said[0], said, split_of(tune.id)
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
        self._gains: dict[Instrument, float] = {}

    def play(self, tune: Tune, instrument: Instrument, bpm: int, seconds: float = SECONDS) -> Wave:
        """float32 [seconds * SAMPLE_RATE] mono; a tune that is shorter starts again, as its repeat sign asks."""
        if instrument not in self._gains:
            loudness = float(np.sqrt(np.mean(self._played(SCALE, instrument, 120, SECONDS) ** 2)))
            self._gains[instrument] = LOUDNESS / max(loudness, 1e-9)
        return _faded(np.clip(self._played(tune, instrument, bpm, seconds) * self._gains[instrument], -PEAK, PEAK))

    def _played(self, tune: Tune, instrument: Instrument, bpm: int, seconds: float) -> Wave:
        self._synth.sounds_off()
        for channel in (0, 1):
            self._synth.program_select(channel, self._font, 0, instrument.program)
        quarter = 60 / bpm / tune.beat
        events = sorted([*melody(tune, quarter, instrument.shift, seconds), *bass(tune, quarter, seconds)])
        pieces, done, end = [], 0, round(seconds * SAMPLE_RATE)
        for at, on, channel, pitch, velocity in [*events, (seconds, False, 0, 0, 0)]:
            until = min(end, round(at * SAMPLE_RATE))
            if until > done:
                pieces.append(np.frombuffer(bytes(self._synth.generate(until - done)), np.float32))
                done = until
            if on:
                self._synth.noteon(channel, pitch, velocity)
            else:
                self._synth.noteoff(channel, pitch)
        played: Wave = np.concatenate(pieces).reshape(-1, 2).mean(1)
        return played


def white_shift(tune: Tune) -> int:
    """Semitones that bring `tune` to the white keys (major to C, dorian to D …) and its middle nearest to MIDDLE."""
    tonic, mode = tune.key.rsplit(" ", 1)
    letter, _, altered = tonic.partition(" ")
    shift = HOMES[mode] - _STEPS[letter] - {"sharp": 1, "flat": -1}.get(altered, 0)
    middle = float(np.median([note.pitch for note in tune.notes])) + shift
    return shift + 12 * round((MIDDLE - middle) / 12)


def bar_of(tune: Tune) -> float:
    """Quarter notes in a bar."""
    count, unit = tune.metre.split("/")
    return 4 * int(count) / int(unit)


def melody(tune: Tune, quarter: float, shift: int, seconds: float) -> Iterator[Event]:
    """Every note that starts in time, from the first whole bar on. quarter: seconds of a quarter note."""
    moved = white_shift(tune)
    begin = tune.pickup if tune.pickup < bar_of(tune) - 0.01 else 0.0
    for turn in range(64):
        for note in tune.notes:
            start = (turn * tune.length + note.onset - begin) * quarter
            if start >= seconds:
                return
            if start > -0.001:
                pitch = note.pitch + moved
                pitch += 12 * ((pitch < LOWEST) - (pitch >= LOWEST + 24)) + shift
                yield max(0.0, start), True, 0, pitch, MELODY_VELOCITY
                yield start + 0.95 * note.duration * quarter, False, 0, pitch, 0


def bass(tune: Tune, quarter: float, seconds: float) -> Iterator[Event]:
    """The tonic on strong beats and the fifth on the others; of three beats the first is strong, else every other."""
    home = HOMES[tune.key.rsplit(" ", 1)[1]]
    length = tune.beat * quarter
    in_bar = round(bar_of(tune) / tune.beat)
    for beat in range(ceil(seconds / length)):
        strong = beat % in_bar == 0 if in_bar % 2 else beat % 2 == 0
        pitch = home if strong else home + 7
        yield beat * length, True, 1, pitch, BASS_VELOCITY
        yield (beat + 0.6) * length, False, 1, pitch, 0


def _faded(wave: Wave) -> Wave:
    """Faded out over the last 20 ms so that a clip doesn't end in a click."""
    fade = SAMPLE_RATE // 50
    faded: Wave = wave.astype(np.float32)
    faded[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return faded


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
