"""Tunes are read as written, and the plan is balanced and split by tune."""

from collections import Counter
from itertools import pairwise

import pytest

from anyloom.anygpt_model.training import music_trainer
from anyloom.anygpt_model.training.music_abc import Tune, read_key, read_tunes
from anyloom.anygpt_model.training.music_data import (
    INSTRUMENTS,
    LOWEST,
    SECONDS,
    TEMPOS,
    bass,
    captions,
    melody,
    plan,
    split_of,
    white_shift,
)

JIG = """X:7
T:The Test -- Jig
M:6/8
L:1/8
K:Em % one sharp
"Am"D|(3EFG {a}F2=F ~G>A|^c2c [EG]2-G z2|:G,e'f e/e//d3:|
X:8
T:Broken
K:
"""


def tune() -> Tune:
    (found,) = read_tunes(JIG, "book")
    return found


def test_header() -> None:
    read = tune()
    assert (read.id, read.title, read.kind, read.metre, read.key) == ("book/7", "The Test", "jig", "6/8", "E minor")
    assert read.beat == 1.5
    assert read.pickup == 0.5


def test_pitches_follow_key_accidentals_bars_and_octaves() -> None:
    pitches = [note.pitch for note in tune().notes]
    assert pitches == [62, 64, 66, 67, 66, 65, 67, 69, 73, 73, 67, 55, 88, 78, 76, 76, 74]


def test_durations_of_tuplets_broken_rhythm_ties_and_fractions() -> None:
    durations = [note.duration for note in tune().notes]
    third = 1 / 3
    expected = [0.5, third, third, third, 1, 0.5, 0.75, 0.25, 1, 0.5, 1.5, 0.5, 0.5, 0.5, 0.25, 0.125, 1.5]
    assert durations == pytest.approx(expected)


def test_notes_follow_each_other() -> None:
    notes = tune().notes
    assert all(a.onset + a.duration <= b.onset + 1e-9 for a, b in pairwise(notes))


@pytest.mark.parametrize(
    ("text", "name", "altered"),
    [
        ("D", "D major", {"F": 1, "C": 1}),
        ("Bb", "B flat major", {"B": -1, "E": -1}),
        ("A Dorian", "A dorian", {"F": 1}),
        ("Amix", "A mixolydian", {"F": 1, "C": 1}),
        ("Am", "A minor", {}),
    ],
)
def test_keys(text: str, name: str, altered: dict[str, int]) -> None:
    assert read_key(text) == (name, altered)


def test_plan_is_balanced_over_instruments_and_tempos() -> None:
    found = tune()
    tunes = [
        Tune(f"t{n}", str(n), ("jig", "reel")[n % 2], "6/8", "D major", 1.5, 0, 24, found.notes) for n in range(90)
    ]
    clips = [clip for _, clip in plan(tunes, 60)]
    assert len({clip.tune for clip in clips}) == 60
    assert Counter(clip.type for clip in clips) == {"jig": 30, "reel": 30}
    counts = Counter((clip.instrument, clip.tempo) for clip in clips)
    assert len(counts) == len(INSTRUMENTS) * len(TEMPOS)
    assert all(clip.split == split_of(clip.tune) for clip in clips)


def test_a_tenth_is_held_out() -> None:
    assert 70 < sum(split_of(f"tune {n}") == "test" for n in range(1000)) < 130


def test_captions_take_the_right_article() -> None:
    assert captions("slow", "waltz", "violin", "D major", "3/4")[0] == "a slow waltz on the violin"
    assert captions("slow", "air", "harp", "D major", "4/4")[2] == "harp music: an air in 4/4, slow tempo"


def reel(key: str) -> Tune:
    """A pickup of an eighth, then eighths up the scale of its key, two bars and more."""
    ups = "DEFGABcd efgfedcB AGFEDEFG"
    (found,) = read_tunes(f"X:1\nT:Test Reel\nM:4/4\nL:1/8\nK:{key}\nA|{ups.replace(' ', '|')}|", "book")
    return found


@pytest.mark.parametrize("key", ["D", "Bb", "F#", "Em", "A Dorian", "Amix"])
def test_tunes_are_played_on_white_keys_within_two_octaves(key: str) -> None:
    tune = reel(key)
    pitches = [pitch for _, on, _, pitch, _ in melody(tune, 0.5, 0, SECONDS) if on]
    assert {pitch % 12 for pitch in pitches} <= {0, 2, 4, 5, 7, 9, 11}
    assert all(LOWEST <= pitch < LOWEST + 24 for pitch in pitches)


def test_a_pickup_is_left_out_the_first_time_round() -> None:
    tune = reel("D")
    first = min(at for at, on, _, _, _ in melody(tune, 0.5, 0, SECONDS) if on)
    assert first == 0
    opening = next(pitch for at, on, _, pitch, _ in melody(tune, 0.5, 0, SECONDS) if on and at == first)
    assert opening == tune.notes[1].pitch + white_shift(tune)


@pytest.mark.parametrize(
    ("metre", "strong"), [("4/4", [True, False, True, False]), ("3/4", [True, False, False, True])]
)
def test_bass_goes_oom_pah_and_a_waltz_oom_pah_pah(metre: str, strong: list[int]) -> None:
    tune = Tune("t", "t", "waltz", metre, "G major", 1, 0, 24, reel("G").notes)
    struck = [(at, pitch) for at, on, _, pitch, _ in bass(tune, 0.5, 2) if on]
    assert [at for at, _ in struck] == [0, 0.5, 1, 1.5]
    assert [pitch == 48 for _, pitch in struck] == strong


def test_a_beat_is_whole_frames_of_the_codec() -> None:
    for bpm in TEMPOS.values():
        assert (60 / bpm * music_trainer.CODEC.frame_rate) % 1 == pytest.approx(0)
    assert (SECONDS * music_trainer.CODEC.frame_rate) % 1 == 0
