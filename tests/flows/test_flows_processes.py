"""Shards in worker processes of one machine, over SQLite; and interrupts of a run as a terminal sends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anyloom.anygpt_model.errors import UnknownName
from anyloom.storage.store import Store, open_store

pytest.importorskip("prefect")
ITEMS = 3000


def texts(folder: Path, items: int) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(items)))
    return rows


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "flow_home")
def test_worker_processes_share_a_job_over_sqlite(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyloom.flows.convert import run_convert

    manifests = []
    for runner in ("processes", "threads"):
        monkeypatch.setenv("ANYLOOM_TASK_RUNNER", runner)
        monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / runner))
        out = tmp_path / "out"
        rows = texts(tmp_path, 48)
        answer = run_convert(str(rows), to="text", out=out, model=str(tiny_folder), shard=2, max_tokens=8, quiet=True)
        assert (answer["done"], answer["failed"], answer["left"]) == (48, 0, 0), answer["reasons"]
        with open_store(f"sqlite:///{tmp_path / runner}/anyloom.db") as store:
            items = store.jobs.rows(store.jobs.job(f"convert {out}"))
            workers = {(item.worker or "").split(":")[1] for item in items}
            ids = [store.turn(item.turn or "").generation.ids for item in items]
        assert (str(os.getpid()) in workers, len(workers)) == ((False, 2) if runner == "processes" else (True, 1))
        manifests.append((ids, (out / "manifest.jsonl").read_text()))
        out.rename(tmp_path / f"of {runner}")
    assert manifests[0] == manifests[1]


def done_in(home: Path, out: Path) -> int:
    """Items done so far, by a store that another process may not have made yet."""
    path = home / "anyloom.db"
    if not path.exists():
        return 0
    with open_store(f"sqlite:///{path}") as store:
        return _done(store, out)


def _done(store: Store, out: Path) -> int:
    try:
        return store.jobs.counts(store.jobs.job(f"convert {out}"))["done"]
    except UnknownName:
        return 0


def listening(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that heeds interrupts, also where this one ignores them, as jobs of a shell do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


def gone(group: int) -> bool:
    """Whether no process of a group is left, some seconds after its leader has ended."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "sent", "to", "code"),
    [("threads", signal.SIGINT, os.killpg, 1), ("processes", signal.SIGTERM, os.kill, 143)],
)
def test_an_interrupt_ends_a_run_at_once_and_loses_nothing(
    runner: str, sent: signal.Signals, to: Callable[[int, int], None], code: int, tmp_path: Path, tiny_folder: Path
) -> None:
    """Ctrl-C goes to all processes of the run, its temporary server among them; SIGTERM to the first alone."""
    home, out, temporary = tmp_path / "home", tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "anyloom", "convert", str(texts(tmp_path, ITEMS)), "--out", str(out)]
    given = {**os.environ, "ANYLOOM_HOME": str(home), "ANYLOOM_TASK_RUNNER": runner, "ANYLOOM_MODEL": str(tiny_folder)}
    given["TMPDIR"] = str(temporary)
    given.pop("PREFECT_API_URL", None)
    run = [*command, "--to", "text", "--max-tokens", "8"]
    with listening(run, given) as process:
        while not done_in(home, out):
            assert process.poll() is None
            time.sleep(0.02)
        to(process.pid, sent)
        began = time.monotonic()
        told = process.communicate(timeout=60)[1]
        assert time.monotonic() - began < 30  # tasks that ask a server that is gone ask it for minutes
    assert process.returncode == code, told
    assert "start it again to go on" in told
    assert "Traceback" not in told
    assert gone(process.pid)
    assert not list(temporary.glob("*.interrupted"))
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    done = sum(row["status"] == "done" for row in rows)
    assert len(rows) == ITEMS
    assert 0 < done == done_in(home, out) < ITEMS
    with open_store(f"sqlite:///{home}/anyloom.db") as store:
        assert store.jobs.counts(store.jobs.job(f"convert {out}")) == {
            "pending": ITEMS - done, "running": 0, "done": done, "failed": 0,
        }  # fmt: skip
