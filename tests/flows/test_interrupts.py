"""Interrupts, without Prefect: who is told, what shards do then, and how a worker process follows its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyloom.anygpt_model.errors import Cancelled, InputError
from anyloom.flows import interrupts
from anyloom.flows.conversion import asking
from anyloom.flows.shards import Result, Shard, each
from anyloom.flows.worker_process import share
from anyloom.nodes.state import Context
from anyloom.storage.jobs import NewItem
from anyloom.storage.store import memory_store

WORKER = """
import multiprocessing, os, sys, time
from anyloom.flows.interrupts import interrupted
from anyloom.flows.worker_process import start_worker
def work(sign, told):
    start_worker(3, sign)
    os.write(told, b"cores %s\\n" % os.environ["OMP_NUM_THREADS"].encode())
    while not interrupted():
        time.sleep(0.01)
    os.write(told, b"stopped\\n")
    time.sleep(60)
if __name__ == "__main__":
    os.environ.pop("OMP_NUM_THREADS", None)
    multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1], 1)).start()
    time.sleep(60)
"""
"""A parent that knows nothing of its worker: the worker says what it has noticed."""


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    yield
    with interrupts.stopping_on_interrupt():
        pass


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_tells_shards_here_and_elsewhere(ending: type[BaseException]) -> None:
    with pytest.raises(ending), interrupts.stopping_on_interrupt():
        raise ending
    assert interrupts.interrupted()
    assert interrupts.sign().exists()
    with interrupts.stopping_on_interrupt():
        assert not interrupts.interrupted()
        assert not interrupts.sign().exists()


def test_a_run_needs_no_folder_for_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    interrupts.sign.cache_clear()
    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with interrupts.stopping_on_interrupt():
        pass
    with pytest.raises(KeyboardInterrupt), interrupts.stopping_on_interrupt():
        raise KeyboardInterrupt
    assert interrupts.interrupted()


def test_sigterm_unwinds_unless_somebody_handles_it() -> None:
    with pytest.raises(SystemExit) as ended, interrupts.unwinding_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    theirs = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts.unwinding_on_sigterm():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, theirs)
    with ThreadPoolExecutor() as pool:
        pool.submit(lambda: interrupts.unwinding_on_sigterm().__enter__()).result()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_error_is_no_interrupt() -> None:
    with pytest.raises(InputError), interrupts.stopping_on_interrupt():
        raise InputError("No.")
    assert not interrupts.interrupted()


def test_what_an_interrupt_ends_is_left_and_not_failed() -> None:
    with memory_store() as store:
        job = store.jobs.open("job", {})
        store.jobs.add(job, [NewItem(str(n), str(n), {}) for n in range(40)])

        def work(items: Any) -> list[Result | Exception]:
            interrupts.stop()
            return [Result(None, {}), *[Cancelled("Let go.")] * (len(items) - 1)]

        assert Shard(job, store, work, wave=4).work("w", 40)["failed"] == 0
        counts = store.jobs.counts(job)
        assert 1 <= counts["done"] <= 3
        assert counts["pending"] == 40 - counts["done"]


def test_single_items_are_not_begun_after_an_interrupt() -> None:
    begun: list[Any] = []
    work = each(lambda item: begun.append(item) or interrupts.stop() or Result(None, {}))  # type: ignore[func-returns-value]
    told = work(["a", "b", "c"])  # type: ignore[list-item]
    assert begun == ["a"]
    assert [type(outcome) for outcome in told] == [Result, Cancelled, Cancelled]


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_the_engine_lets_go_of_what_is_interrupted(seconds: float | None) -> None:
    def turns(messages: Any, cancelled: Any) -> list[Any]:
        assert not cancelled()
        interrupts.stop()
        assert cancelled()
        return ["in time", None]

    place: Any = SimpleNamespace(side_by_side=SimpleNamespace(turns=turns))
    done, left = asking(place, seconds)([("message", Context())] * 2)  # type: ignore[list-item]
    assert done == "in time"
    assert isinstance(left, Cancelled)


def test_a_worker_stops_at_the_sign_and_ends_with_its_parent(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    script = tmp_path / "parent.py"
    script.write_text(WORKER)
    with subprocess.Popen([sys.executable, str(script), str(sign)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "cores 3\n"
        sign.touch()
        assert parent.stdout.readline() == "stopped\n"
        parent.kill()
        began = time.monotonic()
        assert parent.stdout.read() == ""  # ends when the worker, which holds the pipe too, is gone
        assert time.monotonic() - began < 10


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(5)), raising=False)
    assert [share(workers) for workers in (1, 2, 5, 8)] == [5, 2, 1, 1]
