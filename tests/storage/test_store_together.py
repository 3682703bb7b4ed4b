"""Many turns in one transaction are the turns that one transaction each would write."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import StoreError, UnknownName
from anyloom.storage.store import Store, memory_store


def test_together_and_alone_write_the_same(store: Store) -> None:
    asked, made = store.put(b"asked", medium(b"asked")), store.put(b"made", medium(b"made", mime="image/png", width=8))
    parent = store.record(make_turn("before"))
    turns = [
        make_turn("a picture", asked=asked, made=made),
        make_turn("a word", conversation="thread-2", timings={}),
        make_turn("after", parent=parent),
    ]
    together = store.record_all(turns)
    assert [turn.id for turn in together] == [turn.id for turn in turns]
    assert [store.turn(turn.id) for turn in turns] == together
    with memory_store() as other:
        for data, media in ((b"asked", asked), (b"made", made)):
            other.put(data, media)
        other.record(replace(parent, hash=None))
        assert [other.record(turn).hash for turn in turns] == [turn.hash for turn in together]
    assert store.verify_chain().holds
    assert [found.id for found in store.search("picture")] == [turns[0].id]
    assert {summary.id for summary in store.conversations()} >= {"thread-1", "thread-2"}


def test_runs_that_are_recorded_come_back_and_are_found(store: Store) -> None:
    first = store.record(make_turn("first"))
    new = make_turn("new")
    again, kept = store.record_all([make_turn("other", run=first.run), new])
    assert (again, kept.id) == (first, new.id)
    assert store.recorded([str(first.run), str(new.run), "no such run"]) == {first.run: first, new.run: kept}
    assert store.record_all([]) == []
    assert store.recorded([]) == {}


def test_all_are_written_or_none(store: Store) -> None:
    good, lost = make_turn("good"), make_turn("lost", asked=medium(b"never put"))
    with pytest.raises(StoreError, match="put it first"):
        store.record_all([good, lost])
    with pytest.raises(UnknownName):
        store.turn(good.id)
    with pytest.raises(UnknownName, match="record that first"):
        store.record_all([good, replace(lost, parent="0" * 32)])
    assert store.recorded([str(good.run)]) == {}
