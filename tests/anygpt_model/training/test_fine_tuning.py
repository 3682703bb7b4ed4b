"""A user's own pairs: how they are read, what is refused, and that a model learns them, whole and by LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anyloom.anygpt_model.checkpoints import fingerprints, load_tensors, model_folder
from anyloom.anygpt_model.dialogue import Message, format
from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.errors import InputError
from anyloom.anygpt_model.grammar import parse
from anyloom.anygpt_model.media import write_png
from anyloom.anygpt_model.training import fine_tuning
from anyloom.anygpt_model.training.dials import Dials
from anyloom.anygpt_model.training.fine_tuning import STATE, Run, fine_tune
from anyloom.anygpt_model.training.pairs import read_pairs
from anyloom.anygpt_model.values import Bounds, Modality, Part, Request, Sampling

QUESTION, ANSWER = "Who owns the lighthouse?", "The owl is in the house."


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def square(path: Path, level: int) -> Path:
    path.write_bytes(write_png(np.full((32, 32, 3), level, np.uint8)))
    return path


def test_a_folder_gives_both_directions_of_each_pair(tmp_path: Path) -> None:
    square(tmp_path / "a.png", 10)
    (tmp_path / "a.txt").write_text("a dark square\n")
    (tmp_path / "alone.txt").write_text("no medium beside it")
    seen, made = read_pairs(tmp_path)
    assert [entry.modality for entry in seen[0].entries] == [Modality.IMAGE, Modality.TEXT]
    assert seen[1].entries[0].text == "a dark square"
    assert made[0].entries[0].text == "Draw a dark square."
    assert made[1].entries[0].file == tmp_path / "a.png"


def test_jsonl_is_read_in_both_forms(tmp_path: Path) -> None:
    square(tmp_path / "a.png", 10)
    messages = [
        {"role": "user", "content": [{"image": "a.png"}, "What is this?"]},
        {"role": "assistant", "content": "a square"},
    ]
    chats = read_pairs(lines(tmp_path / "p.jsonl", {"messages": messages}, "", {"prompt": "Hi", "reply": "Hello"}))
    assert [len(chat) for chat in chats] == [2, 2]
    assert chats[0][0].entries[0].file == tmp_path / "a.png"
    assert chats[1][1].entries[0].text == "Hello"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "no JSON"),
        ({"question": "x"}, "neither messages nor prompt"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "user, assistant"),
        ({"prompt": {"image": "none.png"}, "reply": "x"}, "no file none.png"),
        ({"prompt": {"video": "a.mp4"}, "reply": "x"}, "one-entry objects"),
        ({"prompt": "x", "reply": []}, "empty"),
        ({"prompt": "x", "reply": " "}, "content is a text"),
    ],
)
def test_what_a_line_can_not_be_is_said_with_its_number(tmp_path: Path, row: object, reason: str) -> None:
    with pytest.raises(InputError, match=f"Line 2 .*{reason}"):
        read_pairs(lines(tmp_path / "p.jsonl", {"prompt": "Hi", "reply": "Hello"}, row))


def test_empty_sources_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pair"):
        read_pairs(tmp_path)
    with pytest.raises(InputError, match="no file or folder"):
        read_pairs(tmp_path / "none")
    with pytest.raises(InputError, match="a JSON object of rank, rate"):
        Dials.from_file(lines(tmp_path / "s.json", {"ranks": 3}))
    assert Dials.from_file(lines(tmp_path / "s.json", {"rank": 4})).rank == 4


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    square(folder / "a.png", 40)
    rows = [
        {"prompt": QUESTION, "reply": ANSWER},
        {"prompt": [{"image": "a.png"}, "What is this?"], "reply": "a hatch"},
    ]
    return lines(folder / "pairs.jsonl", *rows)


def reply(folder: Path) -> str:
    with load_engine(folder, device="cpu") as engine:
        prompt = format([Message("user", (Part(Modality.TEXT, QUESTION),))], engine.vocabulary)
        bounds = Bounds(Modality.TEXT, frozenset({Modality.TEXT}), 40)
        greedy = {Modality.TEXT: Sampling(temperature=0.0)}
        made = engine.generate([Request(tuple(prompt), 0, bounds, greedy)])[0]
        return " ".join(part.text or "" for part in parse(made.ids, engine.vocabulary)).strip()


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "rate", "epochs"), [(0, 1e-3, 30), (8, 5e-3, 120)])
def test_the_pocket_learns_an_answer(tmp_path: Path, chats: Path, rank: int, rate: float, epochs: float) -> None:
    dials = Dials(rank=rank, rate=rate, epochs=epochs, held_out=0.0)
    before = fingerprints(model_folder("pocket"))
    outcome = fine_tune(read_pairs(chats), "pocket", tmp_path / "own", dials, "cpu")
    after = fingerprints(outcome.folder)
    assert reply(outcome.folder) == ANSWER
    assert fingerprints(model_folder("pocket")) == before
    assert {part for part in before if before[part] != after[part]} == {"llm"}
    with pytest.raises(InputError, match="is there already"):
        fine_tune(read_pairs(chats), "pocket", tmp_path / "own", dials, "cpu")


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on(tmp_path: Path, chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(epochs=6, held_out=0.5)
    whole = fine_tune(read_pairs(chats), "pocket", tmp_path / "whole", dials, "cpu")
    monkeypatch.setattr(fine_tuning, "SAVE_S", -1.0)
    learn, calls = Run._learn, []

    def killed(self: Run, batch: object) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return learn(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_learn", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(read_pairs(chats), "pocket", tmp_path / "own", dials, "cpu")
    assert (tmp_path / "own" / STATE).exists()
    resumed = fine_tune(read_pairs(chats), "pocket", tmp_path / "own", dials, "cpu")
    assert len(calls) == 4 + resumed.steps - 3
    assert (resumed.before, resumed.after) == pytest.approx((whole.before, whole.after), rel=1e-4)
    assert not (tmp_path / "own" / STATE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_folder_in_the_published_layout_learns(tmp_path: Path, chats: Path, tiny_folder: Path, rank: int) -> None:
    dials = Dials(rank=rank, rate=1e-2, epochs=8, held_out=0.0)
    outcome = fine_tune(read_pairs(chats), tiny_folder, tmp_path / "own", dials, "cpu")
    assert outcome.steps == 8
    config, own = (json.loads((folder / "llm" / "config.json").read_text()) for folder in (tiny_folder, outcome.folder))
    assert own == config
    assert load_tensors(outcome.folder / "llm").keys() == load_tensors(tiny_folder / "llm").keys()
    assert reply(outcome.folder) != reply(tiny_folder)
