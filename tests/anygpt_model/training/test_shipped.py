"""The stage "shipped": every part lies where its trainer would have put it, and what was there stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anyloom.anygpt_model.errors import CheckpointError
from anyloom.anygpt_model.training import language_trainer, shipped, stages
from anyloom.anygpt_model.vocabulary import Vocabulary
from anyloom.app.cli import run


def test_parts_lie_where_trainers_look_and_own_ones_stay(tmp_path: Path) -> None:
    own = tmp_path / "speech" / "codec" / "config.json"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    shipped.lay_out(tmp_path)
    assert own.read_text() == "mine"
    assert not (own.parent / "ckpt.safetensors").exists()
    for place, part in stages.PARTS.items():
        if place != "speech/codec":
            names = {path.name for path in (tmp_path / place).iterdir()}
            assert names == {path.name for path in (stages.SHIPPED / part).iterdir() if path.name != "__pycache__"}
    vocabulary = Vocabulary.from_folder(tmp_path / "language" / "tokenizer")
    assert vocabulary.size == Vocabulary.from_folder(stages.SHIPPED / "llm").size


def test_without_data_it_says_what_to_run_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "shipped", "--work", str(tmp_path / "work")]) == 2
    assert "run `anyloom train data --work" in capsys.readouterr().err
    assert not (tmp_path / "work" / "language").exists()


def test_only_what_is_not_coded_is_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(shipped.music_trainer, "write_tokens", lambda work: called.append("music"))
    monkeypatch.setattr(shipped.speech_tokens, "write_tokens", lambda work: called.append("speech"))
    for name in ("image/views.npz", "music/tokens.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    shipped.code(tmp_path, "cpu", 0)
    assert called == ["speech"]


def test_things_get_the_codes_that_the_tokenizer_says_most_often() -> None:
    teaching = SimpleNamespace(
        things=["apple", "pear"],
        thing=torch.tensor([0, 0, 0, 1, -1]),
        train=torch.tensor([0, 1, 3]),
        drawing=torch.tensor([[1, 1, 7], [1, 1, 8], [1, 1, 9], [2, 2, 7], [3, 3, 7]]),
    )
    views = torch.tensor([[5, 6, 0], [5, 6, 0], [9, 9, 0], [4, 4, 0], [0, 0, 0]])[:, None].repeat(1, 2, 1)
    views[1, 1] = torch.tensor([9, 9, 0])
    views[2] = 9  # held out: it doesn't count, and gets its thing's codes
    told = shipped.drawn(teaching, views)  # type: ignore[arg-type]
    assert told.tolist() == [[5, 6, 7], [5, 6, 8], [5, 6, 9], [4, 4, 7], [3, 3, 7]]


def test_the_language_model_goes_on_from_what_ships(tmp_path: Path) -> None:
    shipped.lay_out(tmp_path)
    first = language_trainer.LanguageTrainer(tmp_path)
    from safetensors.torch import load_file

    told = load_file(stages.SHIPPED / "llm" / "model.safetensors")
    assert torch.equal(first.network.state_dict()["model.norm.weight"], told["model.norm.weight"].float())
    assert first.step == 0
    (tmp_path / "language" / "llm" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="can't be gone on from"):
        language_trainer.LanguageTrainer(tmp_path)
