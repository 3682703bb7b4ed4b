"""The recipe's sizes by one file: taken by the trainers, refused where they can't be or can't be any more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anyloom.anygpt_model.errors import InputError
from anyloom.anygpt_model.training import sizes
from anyloom.anygpt_model.training.language_trainer import Plan
from anyloom.anygpt_model.training.music_trainer import CODEC
from anyloom.anygpt_model.training.soundstorm_trainer import STORM
from anyloom.app.cli import run


def written(path: Path, given: Any) -> Path:
    path.write_text(json.dumps(given))
    return path


def test_what_the_file_says_is_taken_and_the_rest_stays(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    given = {"language": {"hidden": 128, "layers": 2}, "soundstorm": {"dim": 64}}
    sizes.keep(work, written(tmp_path / "mine.json", given))
    assert sizes.sized(work, "language", Plan()) == replace(Plan(), hidden=128, layers=2)
    assert sizes.sized(work, "soundstorm", STORM) == replace(STORM, dim=64)
    assert sizes.sized(work, "music", CODEC) is not None
    assert sizes.sized(work, "music", CODEC) == CODEC
    assert sizes.sized(tmp_path, "language", Plan()) == Plan()


def test_every_size_is_one_of_its_trainers(tmp_path: Path) -> None:
    for part, usual in (("language", Plan()), ("speech", CODEC), ("soundstorm", STORM), ("music", CODEC)):
        for name, step in sizes.SIZES[part].items():
            work = tmp_path / f"{part}-{name}"
            work.mkdir()
            sizes.keep(work, written(tmp_path / "one.json", {part: {name: 2 * step}}))
            assert getattr(sizes.sized(work, part, usual), name) == 2 * step


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1], "holds something else"),
        ({"language": 3}, "holds something else"),
        ({"voice": {"dim": 1}}, "no part named 'voice'"),
        ({"language": {"depth": 4}}, "no size named 'depth'; it has hidden, layers, batch_ids"),
        ({"language": {"hidden": 100}}, "is 100; a multiple of 64 is taken"),
        ({"language": {"layers": True}}, "is True; a whole number above 0 is taken"),
        ({"music": {"width": 1 << 30}}, "a multiple of 16 is taken"),
    ],
)
def test_what_no_size_can_be_is_one_sentence(
    given: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "mine.json", given)
    work = tmp_path / "work"
    assert run(["train", "language", "--work", str(work), "--sizes", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert not (work / "sizes.json").exists()


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "data", "--work", str(tmp_path / "w"), "--sizes", str(tmp_path / "none.json")]) == 2
    assert "none.json can't be read as JSON" in capsys.readouterr().err


@pytest.mark.parametrize("work", ["taken", "taken/inside"])
def test_a_work_folder_that_cannot_be_is_one_sentence(
    work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert run(["train", "language", "--work", str(tmp_path / work)]) == 2
    assert "can't be made" in capsys.readouterr().err


def test_other_sizes_than_it_was_begun_with_are_refused(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    small = written(tmp_path / "small.json", {"language": {"layers": 2}})
    large = written(tmp_path / "large.json", {"language": {"layers": 8}})
    sizes.keep(work, small)
    (work / "language" / "llm").mkdir(parents=True)
    sizes.keep(work, small)
    with pytest.raises(InputError, match=r"large.json says other sizes of language than .* was begun with"):
        sizes.keep(work, large)
    sizes.keep(work, written(tmp_path / "more.json", {"language": {"layers": 2}, "music": {"width": 128}}))
    assert sizes.sized(work, "music", CODEC).width == 128
