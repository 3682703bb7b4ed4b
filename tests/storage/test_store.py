"""What is put into the store comes back as it was, on both databases."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import InputError, StoreError, UnknownName
from anyloom.anygpt_model.values import Modality, Part, Sampling, Span
from anyloom.nodes.ports import Keeper
from anyloom.storage.documents import chain, digest
from anyloom.storage.store import Store, memory_store, open_store


def test_a_turn_comes_back_as_it_was(store: Store) -> None:
    asked, made = store.put(b"asked", medium(b"asked")), store.put(b"made", medium(b"made", mime="image/png", width=8))
    turn = make_turn(asked=asked, made=made)
    recorded = store.record(turn)
    assert recorded.hash.startswith("t1:")
    assert store.turn(turn.id) == recorded
    assert store.turn(turn.id[:8]) == recorded
    assert store.get(asked.hash) == b"asked"
    assert store.describe(made.hash) == made


def test_settings_that_are_equal_but_spelled_apart_keep_their_hashes(store: Store) -> None:
    for number, temperature in enumerate((0.0, -0.0)):
        turn = replace(make_turn(), id=f"{number:032x}", run=f"run {number}", parent=None)
        store.record_all([replace(turn, sampling={Modality.TEXT: Sampling(temperature)})])
        found = store.turn(turn.id)
        assert found.hash == chain(digest(found), None)


@given(text=st.text(), ids=st.lists(st.integers(0, 2**40)), floats=st.lists(st.floats(allow_nan=False)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_and_any_numbers_survive(store: Store, text: str, ids: list[int], floats: list[float]) -> None:
    part = Part(Modality.TEXT, text=text, span=Span(Modality.TEXT, tuple(ids)))
    turn = make_turn(request=(part,), options={"said": text}, timings={"node": 0.1})
    generation = type(turn.generation)(tuple(ids), tuple(floats), tuple(floats), "length", 2**64 - 1)
    turn = type(turn)(**{**_fields(turn), "generation": generation})
    assert store.turn(turn.id if store.record(turn) else "") == store.record(turn)
    assert store.turn(turn.id).request == (part,)
    assert store.turn(turn.id).generation == generation


def _fields(turn: object) -> dict[str, object]:
    return {name: getattr(turn, name) for name in turn.__slots__}  # type: ignore[attr-defined]


def test_a_run_records_once(store: Store) -> None:
    turn = make_turn()
    first = store.record(turn)
    again = make_turn("another", run=turn.run)
    assert store.record(again) == first
    with pytest.raises(UnknownName):
        store.turn(again.id)


def test_an_id_belongs_to_one_run(store: Store) -> None:
    turn = store.record(make_turn())
    with pytest.raises(StoreError, match="its id is taken by another run"):
        store.record(make_turn("another", id=turn.id))


def test_lineage_and_tips_of_a_fork(store: Store) -> None:
    first = store.record(make_turn("one"))
    second = store.record(make_turn("two", parent=first))
    fork = store.record(make_turn("fork", parent=first, conversation="thread-2"))
    assert store.lineage(second.id) == [first, second]
    assert store.lineage(fork.id) == [first, fork]
    assert store.tip("thread-1") == second
    assert store.tip("thread-2") == fork
    assert store.tip("thread-3") is None


def test_a_hash_covers_content_and_parent(store: Store) -> None:
    first, other = store.record(make_turn("one")), store.record(make_turn("other"))
    second = make_turn("two", parent=first)
    moved = make_turn("two", parent=other, id=second.id + "x")
    assert store.record(second).hash != store.record(moved).hash


def test_a_turn_needs_its_parent_and_its_media(store: Store) -> None:
    with pytest.raises(UnknownName, match="record that"):
        store.record(make_turn(parent=make_turn()))
    with pytest.raises(StoreError, match="put it first"):
        store.record(make_turn(asked=medium(b"never put")))
    assert store.tip("thread-1") is None


def test_names_that_do_not_exist(store: Store) -> None:
    store.record(make_turn(id="a" * 32))
    store.record(make_turn(id="a" * 31 + "b"))
    with pytest.raises(UnknownName, match="more than one turn"):
        store.turn("a" * 8)
    for unknown in ("b" * 8, "a", "%", "a%aaaaaaaa", ""):
        with pytest.raises(UnknownName, match="There is no turn"):
            store.turn(unknown)
    with pytest.raises(UnknownName, match="There is no medium"):
        store.describe("sha256:" + "0" * 64)
    with pytest.raises(UnknownName, match="none is saved yet"):
        store.voice("ann")


def test_a_description_must_fit_its_bytes(store: Store) -> None:
    with pytest.raises(StoreError, match="describe the bytes"):
        store.put(b"these", medium(b"those"))


def test_the_same_bytes_are_kept_once(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        kept = store.put(b"same", medium(b"same"))
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.name == kept.hash[7:]]) == 1


def test_codes_are_remembered_per_fingerprint(store: Store) -> None:
    kept = store.put(b"sound", medium(b"sound"))
    codes = np.arange(12, dtype=np.int64).reshape(4, 3)
    store.keep_codes(kept.hash, "sha256:codec", codes)
    store.keep_codes(kept.hash, "sha256:codec", codes)
    found = store.codes(kept.hash, "sha256:codec")
    assert found is not None
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, codes)
    assert store.codes(kept.hash, "sha256:other") is None


def test_a_decoded_medium_is_found_until_it_is_evicted(store: Store) -> None:
    made = store.put(b"made", medium(b"made"))
    store.record(make_turn(made=made))
    codes = np.arange(8, dtype=np.int64).reshape(2, 4)
    for _ in range(2):
        store.keep_decoded(codes, "sha256:decoder", 2**63 + 1, made.hash)
    assert store.decoded(codes, "sha256:decoder", 2**63 + 1) == made
    for others in ((codes.reshape(4, 2), "sha256:decoder", 2**63 + 1), (codes + 1, "sha256:decoder", 2**63 + 1),
                   (codes, "sha256:decoder", 1), (codes, "sha256:other", 2**63 + 1)):  # fmt: skip
        assert store.decoded(*others) is None
    store.evict()
    assert store.decoded(codes, "sha256:decoder", 2**63 + 1) is None
    store.put(b"made", medium(b"made"))
    assert store.decoded(codes, "sha256:decoder", 2**63 + 1) == made


def test_only_generated_media_are_evicted_and_put_back(store: Store) -> None:
    asked, made = store.put(b"asked", medium(b"asked")), store.put(b"made", medium(b"made"))
    both = store.put(b"both", medium(b"both"))
    store.record(make_turn(asked=asked, made=made))
    store.record(make_turn(made=both))
    store.record(make_turn(asked=both))
    assert store.evict() == [made.hash]
    assert store.get(asked.hash) == b"asked"
    assert store.get(both.hash) == b"both"
    with pytest.raises(StoreError, match="replay its turn"):
        store.get(made.hash)
    store.put(b"made", made)
    assert store.get(made.hash) == b"made"
    assert store.evict([asked.hash, made.hash]) == [made.hash]


def test_voices_need_consent(store: Store) -> None:
    with pytest.raises(InputError, match="consent"):
        store.voices.save("ann", b"voice", medium(b"voice"), " ")
    kept = store.voices.save("ann", b"voice", medium(b"voice"), "Ann agreed on 2026-11-23.")
    assert store.voice("ann") == kept
    assert [voice.consent for voice in store.voices.all()] == ["Ann agreed on 2026-11-23."]
    with pytest.raises(UnknownName, match="begin with ann"):
        store.voice("bob")


def test_a_memory_store_is_a_keeper_and_dies_with_close() -> None:
    def serves(keeper: Keeper) -> Keeper:
        return keeper

    with memory_store() as store, memory_store() as other:
        kept = serves(store).put(b"x", medium(b"x"))
        store.record(make_turn(asked=kept))
        assert store.get(kept.hash) == b"x"
        with pytest.raises(StoreError):
            other.get(kept.hash)
        assert other.tip("thread-1") is None


def test_the_store_is_found_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYLOOM_DATABASE_URL", raising=False)
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))
    with open_store() as store:
        store.put(b"x", medium(b"x"))
    assert (tmp_path / "home" / "anyloom.db").is_file()
    monkeypatch.setenv("ANYLOOM_DATABASE_URL", str(tmp_path / "elsewhere.db"))
    with open_store() as store:
        assert store.name.endswith("elsewhere.db")


def test_two_databases_have_two_blob_folders(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as a, open_store(tmp_path / "b.db") as b:
        assert a.files.url != b.files.url


def test_a_blob_folder_has_one_owner(tmp_path: Path) -> None:
    shared = str(tmp_path / "blobs")
    for _ in range(2):
        open_store(tmp_path / "a.db", blobs=shared).close()
    with pytest.raises(StoreError, match="belongs to another store"):
        open_store(tmp_path / "b.db", blobs=shared)


def test_threads_share_a_store() -> None:
    with memory_store() as store, ThreadPoolExecutor(8) as pool:
        kept = store.put(b"x", medium(b"x"))
        turns = list(pool.map(lambda n: store.record(make_turn(f"turn {n}", asked=kept)), range(24)))
        assert list(pool.map(lambda turn: store.turn(turn.id), turns)) == turns
        assert store.verify_chain().checked == 24


def test_storage_needs_no_tensor_library() -> None:
    code = (
        "import sys, anyloom.storage.store as s; s.memory_store().close(); "
        "print([m for m in ('torch', 'transformers', 'diffusers', 'langgraph', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
