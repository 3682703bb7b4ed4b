"""The evaluation's arithmetic and its frozen choices; the judges' own weights are not fetched here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.errors import CheckpointError
from anyloom.anygpt_model.training import image_data, sentences
from anyloom.anygpt_model.training.directions.direction import (
    Case,
    Made,
    Measure,
    Prompt,
    asked,
    digest,
    frozen_order,
    samples,
)
from anyloom.anygpt_model.training.evaluate import another, evaluate
from anyloom.anygpt_model.training.judges import eye, timbre
from anyloom.anygpt_model.training.judges.bounds import Score, mean, ratio, share
from anyloom.anygpt_model.training.judges.voice import nearer
from anyloom.anygpt_model.training.judges.words import plain, same_words, telling, told, word_errors
from anyloom.anygpt_model.training.report import Report, Row
from anyloom.anygpt_model.values import Modality


def test_wilson_bounds_are_the_published_ones() -> None:
    # Newcombe 1998, method 3: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    some = share([True] * 81 + [False] * 182)
    assert (round(some.low, 4), round(some.high, 4)) == (0.2553, 0.3662)
    none = share([False] * 20)
    assert none.value == none.low == 0
    assert round(none.high, 4) == 0.1611


def test_no_items_say_nothing() -> None:
    assert share([]) == ratio([], []) == Score(0.0, 0.0, 1.0, 0)


def test_bootstrap_holds_the_value_and_is_repeatable() -> None:
    errors = np.random.default_rng(1).integers(0, 3, 50).tolist()
    once = ratio(errors, [4.0] * 50)
    assert once.low < once.value < once.high
    assert once == ratio(errors, [4.0] * 50)
    assert mean([2.0] * 9) == Score(2.0, 2.0, 2.0, 9)


def test_word_errors_count_substituted_missing_and_added_words() -> None:
    assert word_errors(["a red apple"], ["a green apple"]).value == pytest.approx(1 / 3)
    assert word_errors(["a red apple"], ["a apple"]).value == pytest.approx(1 / 3)
    assert word_errors(["apple"], ["an old red apple"]).value == 3
    assert word_errors(["one two", "three four"], ["one two", ""]).value == pytest.approx(0.5)


def test_spellings_of_the_same_sound_are_the_same() -> None:
    assert plain("Ten grey hearts!") == plain("10 gray  hearts")
    assert same_words(["The colour is red."], ["the color is red"]).value == 1


def test_ranks_count_what_resembles_more() -> None:
    gallery = eye.directions(np.eye(4, dtype=np.float32))
    looked_up = np.stack([gallery[2], gallery[0]])
    assert eye.ranks(looked_up, [gallery, gallery], [2, 1]) == [0, 1]


def test_tempo_words_are_the_nearest_in_proportion() -> None:
    tempos = {"slow": 90.0, "moderate": 120.0, "fast": 144.0}
    assert [timbre.tempo_word(beats, tempos) for beats in (45, 103, 105, 130, 133, 288)] == [
        "slow",
        "slow",
        "moderate",
        "moderate",
        "fast",
        "fast",
    ]


def test_a_tempo_within_eight_percent_is_the_same_and_its_double_is_not() -> None:
    assert [beats for beats in (50, 91.9, 92.1, 107.9, 108.1, 200) if timbre.same_tempo(beats, 100)] == [92.1, 107.9]


def test_nearest_names_the_example_in_the_same_direction() -> None:
    examples = {"flute": np.array([[3.0, 0.0, 1.0]] * 2), "drum": np.array([[0.0, 3.0, 1.0]] * 2)}
    assert timbre.nearest([np.array([2.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.0])], examples) == ["flute", "drum"]


def test_a_class_that_varies_among_examples_of_one_name_counts_less() -> None:
    examples = {"flute": np.array([[1.0, -9.0], [1.0, 11.0]]), "drum": np.array([[0.0, -12.0], [0.0, 8.0]])}
    assert timbre.nearest([np.array([1.0, -5.0]), np.array([0.0, 5.0])], examples) == ["flute", "drum"]


def test_orders_and_splits_are_frozen() -> None:
    assert frozen_order(["a", "b", "c", "d"]) == frozen_order(["d", "c", "b", "a"])
    asked_of = "\n".join(sorted(question for question, _, _ in sentences.test_pairs()))
    assert hashlib.sha256(asked_of.encode()).hexdigest()[:12] == "14db47bd4325"
    held = [f"{code:x}:{style}" for code in range(0x1F400, 0x1F480) for style in image_data.STYLES]
    split = " ".join(name for name in held if image_data.split(*name.split(":")) != "train")
    assert hashlib.sha256(split.encode()).hexdigest()[:12] == "62c8e8ac30b7"


def test_sounds_come_at_the_rate_of_the_judge_and_nothing_is_silence() -> None:
    assert len(samples(np.ones(24_000, np.float32), 24_000, 16_000)) == 16_000
    assert not samples(None, 24_000, 16_000).any()


def test_every_direction_has_a_phrasing() -> None:
    assert "a red apple" in asked(Modality.TEXT, Modality.IMAGE, "a red apple")
    assert asked(Modality.SPEECH, Modality.TEXT)


class Echo:
    """A direction whose right answer is the case's own id."""

    name = "echo"
    measures = (Measure("said", "equality"),)

    def cases(self, limit: int) -> list[Case]:
        return [Case(name, Prompt(Modality.TEXT, name)) for name in "abcdefghijklmnopqrst"[:limit]]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        return [share([answer == case.id for answer, case in zip(made, cases, strict=True)])]

    def real(self, cases: Sequence[Case], through: Any) -> list[Made] | None:
        return None if through else [case.id for case in cases]


class Parrot:
    """Stands where an engine is asked: repeats the prompt, errs on one."""

    def answers(self, cases: Sequence[Case], progress: Any = None) -> list[Made]:
        return ["" if case.id == "a" else case.prompt.text for case in cases]

    def round_trip(self, modality: Modality, array: Any) -> Any:
        return array


def test_a_row_stands_beside_chance_and_ceiling() -> None:
    (row,) = evaluate(Parrot(), [Echo()], 20, None)  # type: ignore[arg-type]
    assert (row.model.value, row.chance.value, row.ceiling.value) == (0.95, 0, 1)  # type: ignore[union-attr]
    assert row.round_trip is None
    assert row.above_chance
    assert row.cases == digest(Echo().cases(20)) != digest(Echo().cases(19))
    report = Report("parrot", "f", "a machine", 1.0, (row,))
    assert "| echo | said (equality) | 95.0%" in report.to_markdown()
    assert Report.from_json(report.to_json()) == report


def test_a_direction_whose_part_is_missing_is_left_out() -> None:
    class Missing(Parrot):
        def answers(self, cases: Sequence[Case], progress: Any = None) -> list[Made]:
            raise CheckpointError("The folder has no unclip.")

    assert list(evaluate(Missing(), [Echo()], 5, None)) == []  # type: ignore[arg-type]


def test_tables_of_the_same_weights_are_joined() -> None:
    one, two = Row("b", "m", "j", False, 1, "", *[None] * 4), Row("text → image", "m", "j", False, 1, "", *[None] * 4)
    earlier, later = Report("p", "f", "m", 1.0, (one,)), Report("p", "f", "m", 2.0, (two,))
    assert later.joined(earlier).rows == (two, one)
    assert later.joined(earlier).seconds == 3
    assert later.joined(Report("p", "other", "m", 1.0, (one,))).rows == (two,)


def test_chance_gives_every_case_another_ones_answer() -> None:
    cases = Echo().cases(5)
    shuffled = another([case.id for case in cases], cases)
    assert sorted(shuffled) == [case.id for case in cases]  # type: ignore[type-var]
    assert all(answer != case.id for answer, case in zip(shuffled, cases, strict=True))


def test_fewer_errors_than_chance_are_above_chance() -> None:
    low, high = Score(0.2, 0.1, 0.3, 9), Score(1.0, 0.9, 1.1, 9)
    row = Row("d", "word errors", "j", True, 9, "x", low, high, None, None)
    assert row.above_chance
    assert not Row("d", "hits", "j", False, 9, "x", low, high, None, None).above_chance


def test_an_answer_tells_what_was_asked() -> None:
    assert telling("What colour is the apple?", "The apple is red.") == {"red"}
    assert telling("Where does the lion live?", "The lion lives in the forest.") == {"in", "forest"}
    assert telling("Is the sun yellow?", "Yes, the sun is yellow.") == {"yes"}
    questions, answers = ["What colour is the apple?"] * 2, ["The apple is red."] * 2
    assert told(questions, answers, ["An apple is red", "The apple is green."]).value == 0.5


def test_a_voice_is_nearer_to_its_prompt() -> None:
    own, other = np.eye(2, dtype=np.float32)[[0, 0]], np.eye(2, dtype=np.float32)[[1, 1]]
    assert nearer(own, own, other).value == 1.0
    assert nearer(other, own, other).value == -1.0
