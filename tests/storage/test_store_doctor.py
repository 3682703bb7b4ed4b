"""The doctor finds each kind of harm, mends what can be mended, and then finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import StoreError
from anyloom.storage.doctor import examine
from anyloom.storage.jobs import NewItem
from anyloom.storage.store import Store


def _blob(store: Store, name: str) -> Path:
    digits = name.removeprefix("sha256:")
    return Path(store.files.url) / digits[:2] / digits


def _kinds(store: Store, **options: float | bool) -> list[tuple[str, bool]]:
    return [(one.kind, one.mended) for one in examine(store, **{"grace": 0.0, **options}).findings]  # type: ignore[arg-type]


def test_a_healthy_store_is_clean(store: Store) -> None:
    made = store.put(b"made", medium(b"made"))
    store.record(make_turn(made=made))
    report = examine(store, grace=0.0)
    assert report.clean
    assert (report.turns, report.media) == (1, 1)


def test_orphans_wait_for_their_grace(store: Store) -> None:
    kept = store.put(b"never recorded", medium(b"never recorded"))
    Path(store.files.url, "00").mkdir()
    lonely = Path(store.files.url, "00", "0" * 64)
    lonely.write_bytes(b"")
    assert _kinds(store, grace=3600.0) == []
    assert _kinds(store, mend=False) == [("orphan medium", False), ("orphan blob", False)]
    assert _kinds(store) == [("orphan medium", True), ("orphan blob", True)]
    assert not _blob(store, kept.hash).exists()
    assert not lonely.exists()
    assert _kinds(store) == []


def test_a_temporary_file_of_a_dead_writer_goes_at_once(store: Store) -> None:
    incoming = Path(store.files.url, "incoming")
    incoming.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    import os
    import socket

    (incoming / f"{socket.gethostname()}~{process.pid}~abc.tmp").write_bytes(b"half")
    alive = incoming / f"{socket.gethostname()}~{os.getpid()}~abc.tmp"
    alive.write_bytes(b"being written")
    assert _kinds(store, grace=3600.0) == [("temporary file", True)]
    assert list(incoming.iterdir()) == [alive]


def test_missing_and_broken_blobs(store: Store) -> None:
    names = ["lost input", "broken input", "lost output", "broken output"]
    media = {name: store.put(name.encode(), medium(name.encode())) for name in names}
    for name in names:
        side = "asked" if "input" in name else "made"
        store.record(make_turn(name, **{side: media[name]}))
        path = _blob(store, media[name].hash)
        if "lost" in name:
            path.unlink()
        else:
            path.write_bytes(b"rot")
    with pytest.raises(StoreError, match="no longer matches its hash"):
        store.get(media["broken input"].hash)
    with pytest.raises(StoreError, match="is missing from"):
        store.get(media["lost input"].hash)
    found = {one.subject: one for one in examine(store, grace=0.0).findings}
    assert {name: (found[media[name].hash].kind, found[media[name].hash].mended) for name in names} == {
        "lost input": ("missing blob", False),
        "broken input": ("broken blob", False),
        "lost output": ("missing blob", True),
        "broken output": ("broken blob", True),
    }
    assert "put the original file again" in found[media["lost input"].hash].detail
    assert len(list(Path(store.files.url, "broken").iterdir())) == 2
    assert _kinds(store) == []
    for name in names:
        store.put(name.encode(), media[name])
        assert store.get(media[name].hash) == name.encode()


def test_counts_words_and_items_are_mended(store: Store) -> None:
    made = store.put(b"made", medium(b"made"))
    turn = store.record(make_turn("needle", made=made))
    job = store.jobs.open("j", {})
    store.jobs.add(job, [NewItem("row", "key", {})])
    store.jobs.claim(job, "gone", 1, lease=-1.0)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE media SET refs = 7"))
        connection.execute(text("DELETE FROM search"))
    assert _kinds(store) == [("wrong count", True), ("missing words", True), ("lapsed item", True)]
    assert [one.id for one in store.search("needle")] == [turn.id]
    assert store.jobs.counts(job)["pending"] == 1
    assert _kinds(store) == []


def test_a_broken_chain_is_told_and_not_mended(store: Store) -> None:
    turn = store.record(make_turn())
    with store.database.writing() as connection:
        connection.execute(text("UPDATE turns SET digest = 't1:00'"))
    report = examine(store)
    assert not report.healthy
    assert {(one.kind, one.subject, one.mended) for one in report.findings} == {("broken chain", turn.id, False)}
