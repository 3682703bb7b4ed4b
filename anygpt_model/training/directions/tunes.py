"""Text to music and music to text: held-out tunes; who plays and how fast, judged by YAMNet and librosa."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...values import Modality
from .. import music_data
from ..judges import timbre
from ..judges.bounds import Score, share
from ..judges.words import plain
from .direction import Case, Made, Measure, Prompt, RoundTrip, asked, frozen_order, samples

EXAMPLES = 30
"""Real training clips of each instrument that show YAMNet's answer to it."""
Sound = NDArray[np.float32]


class MusicWorld:
    """The clips, which of them are held out, and one musician for both directions."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self.rows: list[dict[str, Any]] = music_data.rows(work)
        self.rate = music_data.SAMPLE_RATE
        self._audio = music_data.audio(work)
        self.instruments = [instrument.name for instrument in music_data.INSTRUMENTS]

    def held_out(self) -> list[tuple[str, int]]:
        """(id, row number) of the held-out clips, in frozen order."""
        rows = {f"{row['tune']}|{row['instrument']}|{row['tempo']}": n for n, row in enumerate(self.rows)}
        return [(id, rows[id]) for id in frozen_order([id for id, n in rows.items() if self._test(n)])]

    def sound(self, row: int) -> Sound:
        """float32 [samples] of a clip."""
        return np.asarray(self._audio[row], np.float32) / np.float32(32768)

    def instruments_heard(self, sounds: Sequence[Made]) -> list[str]:
        """Which instrument each sound is most like, by YAMNet's scores of real examples."""
        return timbre.nearest([self._musician.scores(self._at_rate(sound)) for sound in sounds], self._examples)

    def beats_heard(self, sounds: Sequence[Made]) -> list[float]:
        """Beats a minute of each sound, by librosa; 1 at least."""
        return [max(timbre.beats_a_minute(self._at_rate(sound)), 1.0) for sound in sounds]

    def _test(self, row: int) -> bool:
        return bool(self.rows[row]["split"] == "test")

    def _at_rate(self, sound: Made) -> Sound:
        return samples(sound, self.rate, timbre.SAMPLE_RATE)

    @cached_property
    def _musician(self) -> timbre.Musician:
        return timbre.Musician(self._work / "downloads")

    @cached_property
    def _examples(self) -> dict[str, NDArray[np.float64]]:
        return {name: self._example(name) for name in self.instruments}

    def _example(self, instrument: str) -> NDArray[np.float64]:
        rows = [n for n, row in enumerate(self.rows) if row["instrument"] == instrument and not self._test(n)]
        scores = [self._musician.scores(self._at_rate(self.sound(row))) for row in rows[:EXAMPLES]]
        return np.stack(scores)


class TextToMusic:
    """Music made from a caption: is the instrument the one asked for, and is the tempo."""

    name = "text → music"
    measures = (Measure("instrument of 10", timbre.NAME), Measure("tempo within 8%", "librosa"))

    def __init__(self, world: MusicWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """The plain captions of held-out tunes."""
        found = []
        for id, row in self._world.held_out()[:limit]:
            prompt = Prompt(Modality.MUSIC, asked(Modality.TEXT, Modality.MUSIC, self._world.rows[row]["caption"]))
            found.append(Case(id, prompt, {"row": row}))
        return found

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Shares of sounds with the right instrument and the right tempo; silence has neither."""
        sounding = [not isinstance(sound, str) and sound is not None and bool(np.any(sound)) for sound in made]
        heard = zip(self._world.instruments_heard(made), self._world.beats_heard(made), strict=True)
        rows = [self._world.rows[case.truth["row"]] for case in cases]
        hits = [
            (sounds and instrument == row["instrument"], sounds and timbre.same_tempo(beats, row["bpm"]))
            for sounds, (instrument, beats), row in zip(sounding, heard, rows, strict=True)
        ]
        return [share([hit[0] for hit in hits]), share([hit[1] for hit in hits])]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """The real clips."""
        return _clips(self._world, cases, through)


class MusicToText:
    """A clip is played; does the model name its instrument and its tempo. The ceiling is what the judges hear in it."""

    name = "music → text"
    measures = (Measure("instrument named, of 10", "exact word"), Measure("tempo named, of 3", "exact word"))

    def __init__(self, world: MusicWorld) -> None:
        self._world = world

    def cases(self, limit: int) -> list[Case]:
        """Held-out tunes as sounds."""
        ask = asked(Modality.MUSIC, Modality.TEXT)
        return [
            Case(id, Prompt(Modality.TEXT, ask, self._world.sound(row), Modality.MUSIC), {"row": row})
            for id, row in self._world.held_out()[:limit]
        ]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Shares of texts that name the right instrument, or tempo, and no other."""
        rows = [self._world.rows[case.truth["row"]] for case in cases]
        said = [f" {plain(text)} " if isinstance(text, str) else "" for text in made]
        tempos = list(music_data.TEMPOS)
        return [
            share(
                [
                    _named(text, self._world.instruments) == [row["instrument"]]
                    for text, row in zip(said, rows, strict=True)
                ]
            ),
            share([_named(text, tempos) == [row["tempo"]] for text, row in zip(said, rows, strict=True)]),
        ]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """What the judges hear in the real clips, as words."""
        clips = _clips(self._world, cases, through)
        tempos = [timbre.tempo_word(beats, music_data.TEMPOS) for beats in self._world.beats_heard(clips)]
        heard = zip(tempos, self._world.instruments_heard(clips), strict=True)
        return [f"{tempo} {instrument}" for tempo, instrument in heard]


def _named(text: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if f" {name} " in text]


def _clips(world: MusicWorld, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
    sounds = [world.sound(case.truth["row"]) for case in cases]
    return [through(Modality.MUSIC, sound) if through else sound for sound in sounds]
