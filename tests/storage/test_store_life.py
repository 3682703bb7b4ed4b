"""Erasing erases, pruning prunes, and the chain still verifies."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import StoreError, UnknownName
from anyloom.storage.doctor import examine
from anyloom.storage.store import Store, open_store

SECRET = "Zanzibar"


def test_an_erased_turn_leaves_a_tombstone(store: Store) -> None:
    first = store.record(make_turn("one"))
    second = store.record(make_turn(f"the {SECRET} two", parent=first))
    third = store.record(make_turn("three", parent=second))
    gone = store.erase([second.id[:12]])
    assert gone.turns == (second.id,)
    with pytest.raises(UnknownName, match="was erased on"):
        store.turn(second.id)
    assert store.lineage(third.id) == [first, third]
    assert store.search(SECRET) == []
    summary = store.turns()[1]
    assert (summary.id, summary.asked, summary.tokens) == (second.id, "", 0)
    assert summary.erased
    report = store.verify_chain()
    assert (report.checked, report.erased, report.breaks) == (3, 1, ())
    assert store.erase([second.id]).turns == ()


def test_media_go_with_their_last_reference(store: Store) -> None:
    shared, own = store.put(b"shared", medium(b"shared")), store.put(b"own", medium(b"own"))
    doomed = store.record(make_turn(asked=shared, made=own))
    kept = store.record(make_turn(asked=shared, conversation="thread-2"))
    assert store.erase([doomed.id]).media == (own.hash,)
    assert store.get(shared.hash) == b"shared"
    with pytest.raises(StoreError):
        store.get(own.hash)
    assert store.delete(kept.conversation).media == (shared.hash,)
    with pytest.raises(UnknownName):
        store.describe(shared.hash)
    assert examine(store, grace=0.0).clean


def test_a_voice_keeps_its_recording(store: Store) -> None:
    recording = store.voices.save("ann", b"voice", medium(b"voice"), "Ann agreed.")
    turn = store.record(make_turn(asked=recording))
    assert store.erase([turn.id]).media == ()
    assert store.get(store.voice("ann").hash) == b"voice"
    store.voices.remove("ann", untouched_since=1e12)
    with pytest.raises(UnknownName):
        store.describe(recording.hash)


def test_a_deleted_conversation_has_no_tip(store: Store) -> None:
    store.record(make_turn("one", parent=store.record(make_turn("zero"))))
    assert len(store.delete("thread-1").turns) == 2
    assert store.tip("thread-1") is None
    (summary,) = store.conversations()
    assert (summary.turns, summary.opening, summary.tip) == (0, "", None)
    with pytest.raises(UnknownName, match="no conversation"):
        store.delete("thread-9")


def test_the_tip_steps_back_when_the_last_turn_is_erased(store: Store) -> None:
    first = store.record(make_turn("one"))
    last = store.record(make_turn("two", parent=first))
    store.erase([last.id])
    assert store.tip("thread-1") == first


def test_nothing_of_an_erased_turn_stays_on_disk(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        asked = store.put(SECRET.encode(), medium(SECRET.encode()))
        keys = [store.record(make_turn(f"keep {n}")) for n in range(5)]
        doomed = store.record(make_turn(f"{SECRET} please", asked=asked, options={"note": SECRET}, model=f"m-{SECRET}"))
        store.keep_codes(asked.hash, SECRET, __import__("numpy").zeros((1, 3), dtype="int64"))
        job = store.jobs.open("j", {})
        store.jobs.add(job, [store_item()])
        (item,) = store.jobs.claim(job, "w", 1)
        store.jobs.done(item, doomed.id, {"text": SECRET})
        assert _holders(tmp_path)
        store.erase([doomed.id])
        assert _holders(tmp_path) == []
        assert [store.turn(turn.id) for turn in keys] == keys


def store_item():  # type: ignore[no-untyped-def]
    """An item whose source names the secret."""
    from anyloom.storage.jobs import NewItem

    return NewItem("row", "key", {"text": SECRET})


def _holders(folder: Path) -> list[str]:
    """Files that hold the secret in any case."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and SECRET.lower().encode() in path.read_bytes().lower()
    ]


def test_prune_by_age(store: Store) -> None:
    old = store.record(make_turn("old", created="2020-01-01T00:00:00Z"))
    new = store.record(make_turn("new", parent=old, created="2999-01-01T00:00:00+00:00"))
    trial = store.prune(older_than=3600, dry_run=True)
    assert trial.turns == (old.id,)
    assert store.turn(old.id) == old
    assert store.prune(older_than=3600).turns == (old.id,)
    assert store.lineage(new.id) == [new]


def test_prune_by_size_evicts_before_it_erases(store: Store) -> None:
    made = store.put(b"m" * 5000, medium(b"m" * 5000))
    asked = store.put(b"a" * 5000, medium(b"a" * 5000))
    first = store.record(make_turn("one", made=made, created="2026-01-01T00:00:00+00:00"))
    second = store.record(make_turn("two", asked=asked, created="2026-01-02T00:00:00+00:00"))
    size = store.life.size()
    gone = store.prune(max_bytes=size - 1)
    assert (gone.turns, gone.evicted) == ((), (made.hash,))
    assert gone.size == size - 5000
    assert store.prune(max_bytes=gone.size - 1).turns == (first.id,)
    assert store.prune(max_bytes=0, dry_run=True).turns == (second.id,)
    last = store.prune(max_bytes=0)
    assert (last.turns, last.media, last.size) == ((second.id,), (asked.hash,), 0)


def test_prune_only_some_conversations(store: Store) -> None:
    one = store.record(make_turn("one", conversation="a"))
    two = store.record(make_turn("two", conversation="b"))
    assert store.prune().turns == ()
    assert store.prune(max_bytes=0, conversations=["a"]).turns == (one.id,)
    assert store.prune(conversations=["b"]).turns == (two.id,)


def test_one_altered_thing_breaks_the_chain_there(store: Store) -> None:
    turns = [store.record(make_turn("zero"))]
    for n in range(1, 5):
        turns.append(store.record(make_turn(f"turn {n}", parent=turns[-1])))
    assert store.verify_chain().holds
    alterations = {
        1: "UPDATE parts SET text = 'other' WHERE turn = :number AND side = 'request'",
        2: "UPDATE generations SET seed = '7' WHERE turn = :number",
        3: "UPDATE turns SET hash = 't1:00' WHERE number = :number",
        4: "DELETE FROM generations WHERE turn = :number",
    }
    with store.database.writing() as connection:
        for index, statement in alterations.items():
            number = connection.scalar(text("SELECT number FROM turns WHERE id = :id"), {"id": turns[index].id})
            connection.execute(text(statement), {"number": number})
    breaks = store.verify_chain().breaks
    assert [(one.turn, one.what) for one in breaks] == [
        (turns[1].id, "content"),
        (turns[2].id, "content"),
        (turns[3].id, "hash"),
        (turns[4].id, "content"),
    ]
    assert breaks[2].stored == "t1:00"
    assert breaks[2].derived == turns[3].hash
    assert breaks[3].derived == "missing"
