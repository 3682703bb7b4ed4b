"""`anyloom convert` as an operator types it, each time a process of its own, with no Prefect server configured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from anyloom.app.console import Screen
from anyloom.app.convert import convert, tell

if find_spec("prefect") is None:  # asked for without importing it: it reads its settings then
    pytest.skip("needs anyloom[flows]", allow_module_level=True)


@pytest.mark.slow
def test_good_items_are_done_bad_ones_told_and_the_exit_code_says_which(tmp_path: Path, tiny_folder: Path) -> None:
    home = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home |= {"ANYLOOM_HOME": str(tmp_path / "home"), "ANYLOOM_MODEL": str(tiny_folder), "HOME": str(tmp_path)}

    def converted(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anyloom", "convert", "in", "--to", "text", "--max-tokens", "8", *more]
        return subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello")
    (tmp_path / "in" / "b.png").write_text("no picture")
    first = converted("--out", "out")
    assert first.returncode == 1, first.stderr
    assert first.stdout.startswith("1 done, 1 failed, 0 skipped, 0 left")
    assert "b.png failed: " in first.stdout.replace("\n", " ")
    assert "Traceback" not in first.stderr
    counted = converted("--out", "out", "--json", "--dry-run")
    assert counted.returncode == 0, counted.stderr
    assert json.loads(counted.stdout)["skipped"] == 1
    strict = converted("--out", "out", "--retry-failed", "--max-failed-share", "0")
    assert strict.returncode == 1
    assert "more than the 0% that were allowed" in strict.stderr
    assert "Traceback" not in strict.stderr
    refused = converted("--out", "in/a.txt/out")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    home["PREFECT_API_URL"] = "http://127.0.0.1:1/api"
    unanswered = converted("--out", "out")
    assert unanswered.returncode == 2
    assert unanswered.stderr.startswith("The Prefect server at http://127.0.0.1:1/api does not answer")
    assert len(unanswered.stderr.splitlines()) == 1


@pytest.mark.parametrize(("reasons", "code"), [({}, 0), ({"a": "It is bad."}, 1)])
def test_what_failed_in_this_run_or_before_is_code_1(
    reasons: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyloom.flows import convert as flows

    monkeypatch.setattr(flows, "run_convert", lambda *_, **__: {"done": 1, "failed": 0, "reasons": reasons})
    given = ["in", "--to", "text", "--out", "out"]
    assert CliRunner().invoke(convert, given, standalone_mode=False).return_value == code


def test_the_first_reasons_are_told_and_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {f"row {n}": "It is bad." for n in range(5)}
    tell(Screen(), {"done": 1, "failed": 5, "seconds": None, "reasons": reasons}, Path("out"), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "1 done, 5 failed; the manifest is in out.",
        *(f"row {n} failed: It is bad." for n in range(3)),
        "2 more failed; the manifest has their reasons.",
    ]
