"""Killed, out of disk, eight at once: nothing that was committed is lost, nothing half written is seen."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import StoreError
from anyloom.anygpt_model.values import Turn
from anyloom.storage.doctor import examine
from anyloom.storage.jobs import NewItem
from anyloom.storage.store import Store, open_store

# Children are forked: they need no second of imports, and a store has to bear a fork anyway.
FORK = multiprocessing.get_context("fork")


def _open(url: str, folder: Path) -> Store:
    return open_store(url, home=folder, blobs=str(folder / "blobs"))


def _write_until_killed(url: str, folder: Path, pipe: Connection) -> None:
    """Record turns with media for ever; tell each one's id once it is committed."""
    store = _open(url, folder)
    last: Turn | None = store.tip("thread-1")
    while True:
        data = os.urandom(2000)
        asked, made = store.put(data, medium(data)), store.put(data[::-1], medium(data[::-1]))
        last = store.record(make_turn("needle", parent=last, asked=asked, made=made, tokens=500))
        pipe.send(last.id)


def _kill_one(url: str, folder: Path, draw: random.Random) -> list[str]:
    """The ids that a writer told before it was killed."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_write_until_killed, args=(url, folder, theirs))
    child.start()
    theirs.close()
    told = [ours.recv()]
    time.sleep(draw.uniform(0, 0.05))
    child.kill()
    child.join()
    while ours.poll():
        try:
            told.append(ours.recv())
        except EOFError:
            break
    return told


def _survives_kills(url: str, folder: Path, kills: int) -> None:
    draw = random.Random(kills)
    told: list[str] = []
    for _ in range(kills):
        told += _kill_one(url, folder, draw)
        with _open(url, folder) as store:
            assert store.turn(told[-1]).id == told[-1]
    with _open(url, folder) as store:
        listed = store.turns(limit=100_000)
        assert set(told) <= {one.id for one in listed}
        assert len(listed) <= len(told) + kills
        for one in listed:
            turn = store.turn(one.id)
            assert len(turn.generation.ids) == 500
            assert all(store.get(part.media.hash) for part in (*turn.request, *turn.reply) if part.media)
        report = examine(store, grace=0.0)
        assert {one.kind for one in report.findings} <= {"temporary file", "orphan medium", "orphan blob"}
        assert report.healthy
        assert examine(store, grace=0.0).clean
        assert len(store.search("needle", limit=100_000)) == len(listed)


@pytest.mark.slow
def test_kill_nine_at_twenty_moments(tmp_path: Path) -> None:
    _survives_kills(str(tmp_path / "store.db"), tmp_path, 20)


@pytest.mark.slow
def test_kill_nine_on_postgres(postgres_url: str, tmp_path: Path) -> None:
    _survives_kills(postgres_url, tmp_path, 4)


@pytest.mark.soak
def test_kill_nine_at_two_hundred_moments(tmp_path: Path) -> None:
    _survives_kills(str(tmp_path / "store.db"), tmp_path, 200)


def _write_some(url: str, folder: Path, worker: int) -> None:
    store = _open(url, folder)
    last = None
    job = store.jobs.job("shared")
    for n in range(5):
        last = store.record(make_turn(f"w{worker}", conversation=f"w{worker}", parent=last, tokens=50))
        store.record(make_turn(f"shared {n}", run=f"shared {n}", conversation="shared"))
        for item in store.jobs.claim(job, f"w{worker}", 1):
            store.put(b"same", medium(b"same"))
            store.record(make_turn(run=item.name, conversation="items", asked=store.describe(medium(b"same").hash)))
            assert store.jobs.done(item, None, {"worker": worker})


@pytest.mark.slow
def test_eight_processes_writing_at_once_lose_nothing(url: str, tmp_path: Path) -> None:
    with _open(url, tmp_path) as store:
        job = store.jobs.open("shared", {})
        store.jobs.add(job, [NewItem(f"item {n}", str(n), {}) for n in range(30)])
    writers = [FORK.Process(target=_write_some, args=(url, tmp_path, worker)) for worker in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    with _open(url, tmp_path) as store:
        assert {one.id: one.turns for one in store.conversations()} == {
            **{f"w{worker}": 5 for worker in range(8)},
            "shared": 5,
            "items": 30,
        }
        tip = store.tip("w3")
        assert tip is not None
        assert len(store.lineage(tip.id)) == 5
        assert store.jobs.counts(store.jobs.job("shared"))["done"] == 30
        assert examine(store, grace=0.0).clean


def test_a_store_bears_a_fork(store: Store) -> None:
    before = store.record(make_turn("before"))

    def write() -> None:
        store.record(make_turn("in the child", parent=before))

    child = FORK.Process(target=write)
    child.start()
    child.join()
    assert child.exitcode == 0
    after = store.record(make_turn("after", parent=before))
    assert {one.asked for one in store.children(before.id)} == {"in the child", "after"}
    assert store.turn(after.id) == after


@pytest.fixture(params=["file size", "disk"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder that is soon full, and how to make room in it.

    "disk": a file system of two megabytes, which only root may mount. "file size": a limit on the size of files, which
    answers as a full disk does, for everybody else.
    """
    if request.param == "file size":
        yield tmp_path, lambda: None
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount") or "mount"
    try:
        subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here: only root may; the limit on the size of files stands in")
    yield folder, lambda: subprocess.run([mount, "-o", "remount,size=64m", folder], check=True) and None
    subprocess.run([shutil.which("umount") or "umount", folder], check=True)


def _fill_up(folder: Path, pipe: Connection, fill: Callable[[Store, Connection], None], limited: bool) -> None:
    """Write until it fails."""
    with _open(str(folder / "store.db"), folder) as store:
        if limited:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))
        try:
            fill(store, pipe)
        except StoreError as error:
            pipe.send(error)


def _fill_with_turns(store: Store, pipe: Connection) -> None:
    while True:
        pipe.send(store.record(make_turn(tokens=5000)).id)


def _fill_with_media(store: Store, pipe: Connection) -> None:
    size = 1000
    while True:
        data = os.urandom(size)
        asked = store.put(data, medium(data))
        pipe.send(store.record(make_turn(asked=asked)).id)
        size *= 4


@pytest.mark.parametrize("fill", [_fill_with_turns, _fill_with_media])
def test_a_full_disk(
    fill: Callable[[Store, Connection], None], small_disk: tuple[Path, Callable[[], None]], tmp_path: Path
) -> None:
    folder, make_room = small_disk
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_fill_up, args=(folder, theirs, fill, folder == tmp_path))
    child.start()
    theirs.close()
    told: list[str] = []
    while not isinstance(said := ours.recv(), StoreError):
        told.append(said)
    child.join()
    assert child.exitcode == 0
    assert "could not be written" in str(said)
    assert "\n" not in str(said)
    make_room()
    with _open(str(folder / "store.db"), folder) as store:
        assert {one.id for one in store.turns(limit=1000)} == set(told)
        assert len(told) >= 2
        assert store.verify_chain().holds
        examine(store, grace=0.0)
        assert examine(store, grace=0.0).clean
        store.record(make_turn("there is room again"))
