"""The commands that a developer types one after another, each in a process of its own, over the real pocket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_turn_is_made_evicted_replayed_verified_and_forked(tmp_path: Path) -> None:
    home = {**os.environ, "ANYLOOM_HOME": str(tmp_path / "home"), "ANYLOOM_OUT": str(tmp_path / "out")}

    def anyloom(*args: str) -> str:
        command = [sys.executable, "-m", "anyloom", *args]
        done = subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    turn = json.loads(anyloom("say", "draw a red heart", "--to", "image", "--seed", "4", "--json"))["turn"]
    assert "Evicted 1 media" in anyloom("traces", "evict")
    assert "identical" in anyloom("traces", "replay", turn)
    assert "identical" in anyloom("traces", "verify", turn)
    forked = json.loads(anyloom("traces", "fork", turn, "--at", "10", "--seed", "5", "--json"))
    assert forked["turn"] != turn
