"""`anyloom finetune`, typed as a user does: a folder of pairs, LoRA, and what `say` makes of it; bad input refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anyloom.anygpt_model.checkpoints import fingerprints, model_folder
from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.app.cli import run


def pairs(folder: Path) -> Path:
    """Two pictures and a sound, each beside its words."""
    folder.mkdir()
    for number, level in enumerate((30, 200)):
        (folder / f"{number}.png").write_bytes(write_png(np.full((32, 32, 3), level, np.uint8)))
        (folder / f"{number}.txt").write_text(f"the square number {number}")
    (folder / "tune.wav").write_bytes(write_wav(np.sin(np.arange(16000) / 20).astype(np.float32) * 0.3, 16000))
    (folder / "tune.txt").write_text("a long even hum")
    return folder


@pytest.mark.slow
def test_a_folder_of_pairs_by_lora_and_then_say(tmp_path: Path) -> None:
    home = {**os.environ, "ANYLOOM_HOME": str(tmp_path / "home"), "ANYLOOM_OUT": str(tmp_path / "out")}

    def anyloom(*args: object) -> dict[str, object]:
        command = [sys.executable, "-m", "anyloom", *(str(arg) for arg in args), "--json"]
        done = subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    own = tmp_path / "own"
    (tmp_path / "s.json").write_text('{"held_out": 0.4, "rate": 0.01}')
    made = anyloom("finetune", pairs(tmp_path / "pairs"), "--out", own, "--lora", 8, "--epochs", 6,
                   "--settings", tmp_path / "s.json", "--device", "cpu")  # fmt: skip
    assert (made["chats"], made["folder"]) == (4, str(own))
    assert made["after"] < made["before"]  # type: ignore[operator]
    assert json.loads((own / "fine-tuning.json").read_text())["settings"]["rank"] == 8
    before, after = fingerprints(model_folder("pocket")), fingerprints(own)
    assert {part for part in before if before[part] != after[part]} == {"llm"}
    assert not (own / "README.md").exists()
    reply = anyloom("say", "draw the square number 1", "--to", "image", "--model", own, "--seed", 1)
    assert ".png" in [Path(part.get("file", "")).suffix for part in reply["reply"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("named", "content", "options", "reason"),
    [
        ("p.jsonl", '{"prompt": "Hi"}', [], "Line 1 of p.jsonl"),
        ("p.jsonl", "\xff", [], "not UTF-8"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--model", "nothing"], "no model named 'nothing'"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--settings", "none.json"], "can't be read as JSON"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--out", "."], "is there already"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--lora", "0"], "--lora"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--rate", "7"], "The setting rate is 7.0"),
        ("p.jsonl", '{"prompt": "Hi", "reply": "Hello"}', ["--seed", "-1"], "The setting seed is -1"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    named: str, content: str, options: list[str], reason: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path(named).write_text(content, "latin-1")
    assert run(["finetune", named, "--out", "own", *options]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("name", "data"), [("a.png", b"no picture"), ("a.wav", b"RIFF"), ("a.txt", b"\xff")])
def test_a_bad_file_of_a_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(write_png(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "a.txt").write_text("a square")
    (tmp_path / name).write_bytes(data)
    assert run(["finetune", str(tmp_path), "--out", str(tmp_path / "own")]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "own").exists()
