"""The pocket model over mixed items, killed with -9 at three random moments: the manifest of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.flows import quiet
from anyloom.storage.store import open_store

pytest.importorskip("prefect")
CALLER = """
import json, os, sys, time
from anyloom.flows import convert
from anyloom.flows.convert import run_convert
from anyloom.storage.jobs import Jobs
from anyloom.storage.store import Store
source, out, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
convert.SHORT_WAVE, seen = 4, []
def counted(method):
    def run(*given):
        told = method(*given)
        seen.append(1)
        if len(seen) == after:
            os.write(1, b"now\\n")
            time.sleep(60)
        return told
    return run
Store.record_all, Jobs.finish = counted(Store.record_all), counted(Jobs.finish)
answer = run_convert(source, to="text", out=out, max_tokens=12, quiet=True)
print(json.dumps(answer))
"""
"""After so many writings (of turns, of the ledger) it says so and waits to be killed: between the two, or between two
waves, while others are in work."""


def mixed(folder: Path, items: int) -> Path:
    """A table of texts, pictures and recordings; every seventh input is the one before it, every 13th is bad."""
    folder.mkdir()
    noise = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for n in range(items):
        if n % 7 == 6:
            rows.append(rows[-1])
        elif n % 13 == 12:
            (folder / f"{n}.png").write_bytes(b"\\x89PNG, but no picture")
            rows.append({"media": f"{n}.png"})
        elif n % 10 == 3:
            (folder / f"{n}.png").write_bytes(write_png(noise.integers(0, 255, (32, 32, 3), np.uint8)))
            rows.append({"text": "what is this?", "image": f"{n}.png"})
        elif n % 10 == 7:
            tone = np.sin(np.arange(8_000) * noise.uniform(0.02, 0.2)).astype(np.float32) * 0.3
            (folder / f"{n}.wav").write_bytes(write_wav(tone, 16_000))
            rows.append({"speech": f"{n}.wav"})
        else:
            rows.append({"text": f"What is {n}?"})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(source: Path, out: Path, home: Path, after: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CALLER, str(source), str(out), str(after)]
    given = {**os.environ, "ANYLOOM_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given)


def killed_three_times(folder: Path, items: int, environment: dict[str, str]) -> list[int]:
    """Run, kill, run, …, to the end, and once more undisturbed with a store of its own; when it was killed.

    Both go to the same destination, since that is what names the job, and the job is part of each turn's id; the killed
    one's is moved aside in between.
    """
    source, out = mixed(folder / "in", items), folder / "out"
    moments = [random.randint(1, items // 13) for _ in range(3)]
    killed = []
    for after in moments:
        process = started(source, out, folder / "home", after, environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.kill()
        process.wait()
        killed.append(process.pid)
    to_the_end(started(source, out, folder / "home", 0, environment))
    assert not _children_of(killed)
    out.rename(folder / "killed")
    to_the_end(started(source, out, folder / "calm home", 0, environment))
    return moments


def to_the_end(process: subprocess.Popen[str]) -> None:
    told, _ = process.communicate()
    assert process.returncode == 0, told


def _children_of(owners: list[int]) -> list[int]:
    """Processes that were started for a conversion that no longer runs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        owner = quiet._owner(int(entry.name)).partition(":")[0]
        if owner.isdigit() and int(owner) in owners and int(entry.name) not in owners:
            found.append(int(entry.name))
    return found


def same(folder: Path, items: int) -> None:
    """Raises AssertionError where the killed run's manifest is not the undisturbed one's."""
    rows, calm = (
        [json.loads(line) for line in (folder / name / "manifest.jsonl").read_text().splitlines()]
        for name in ("killed", "out")
    )
    assert len(rows) == items
    told = ("name", "status", "key", "turn", "error", "seed")
    assert [[row[name] for name in told] for row in rows] == [[row[name] for name in told] for row in calm]
    assert {row["status"] for row in rows} == {"done", "failed"}
    done = [row for row in rows if row["status"] == "done"]
    with (
        open_store(f"sqlite:///{folder}/home/anyloom.db") as store,
        open_store(f"sqlite:///{folder}/calm home/anyloom.db") as other,
    ):
        assert len(store.turns(limit=1000)) == len({row["key"] for row in done})
        for row in done:
            assert store.turn(row["turn"]).prompt == other.turn(row["turn"]).prompt


def states_of(out: str) -> dict[str, int]:
    """What Prefect says became of the runs into a folder."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200)
    return dict(Counter(run.state_type.value for run in runs if run.state_type and run.parameters.get("out") == out))


@pytest.mark.slow
def test_forty_items_survive_three_kills(tmp_path: Path, prefect_server: str) -> None:
    print("killed after", killed_three_times(tmp_path, 40, {"PREFECT_API_URL": prefect_server}))
    same(tmp_path, 40)
    assert states_of(str(tmp_path / "out")) == {"CRASHED": 3, "COMPLETED": 2}


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_five_hundred_items_survive_three_kills_and_leave_no_process(tmp_path: Path) -> None:
    """Without a server configured: each run starts its own, and the next start ends what a killed one left."""
    print("killed after", killed_three_times(tmp_path, 500, {"PREFECT_API_URL": ""}))
    same(tmp_path, 500)
