"""Archives: byte-exact there and back, between both databases; altered ones are refused before anything is written."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import make_turn, medium

from anyloom.anygpt_model.errors import StoreError, UnknownName
from anyloom.storage.archive import export_archive
from anyloom.storage.doctor import examine
from anyloom.storage.restoring import Imported, import_archive
from anyloom.storage.store import Store, memory_store

SECRET = "Zanzibar"


def _fill(store: Store) -> None:
    asked, made = store.put(b"asked" * 100, medium(b"asked" * 100)), store.put(b"made", medium(b"made"))
    first = store.record(make_turn(f"a {SECRET} \x00 \ud800 one", asked=asked, options={"voice": SECRET}))
    second = store.record(make_turn("two", parent=first, made=made))
    erased = store.record(make_turn("three", parent=second))
    store.record(make_turn("four", parent=erased, conversation="thread-2"))
    store.record(make_turn("alone", conversation="thread-3"))
    store.erase([erased.id])
    store.keep_codes(asked.hash, "sha256:codec", np.arange(6, dtype=np.int64).reshape(2, 3))
    store.voices.save("ann", b"voice", medium(b"voice"), "Ann agreed.")
    store.evict()


def test_there_and_back_is_byte_exact(store: Store, tmp_path: Path) -> None:
    _fill(store)
    export_archive(store, tmp_path / "one.zip")
    with memory_store() as other:
        assert import_archive(other, tmp_path / "one.zip") == Imported(turns=5, known=0, erased=0, media=3, voices=1)
        export_archive(other, tmp_path / "two.zip")
        assert (tmp_path / "two.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()
        assert import_archive(other, tmp_path / "one.zip") == Imported(turns=0, known=5, erased=0, media=3, voices=0)
        assert other.verify_chain().holds
        assert examine(other, grace=0.0).clean
        for one in store.turns():
            if not one.erased:
                assert other.turn(one.id) == store.turn(one.id)
    with memory_store() as third:
        import_archive(third, tmp_path / "two.zip")
        import_archive(store, tmp_path / "two.zip")
        export_archive(store, tmp_path / "three.zip")
    assert (tmp_path / "three.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()


def test_a_conversation_comes_with_what_it_was_forked_from(store: Store, tmp_path: Path) -> None:
    _fill(store)
    manifest = export_archive(store, tmp_path / "a.zip", conversations=["thread-2"])
    assert (manifest.turns, manifest.media, manifest.voices) == (4, 2, 0)
    with memory_store() as other:
        import_archive(other, tmp_path / "a.zip")
        tip = other.tip("thread-2")
        assert tip is not None
        assert [turn.hash for turn in other.lineage(tip.id)] == [turn.hash for turn in store.lineage(tip.id)]
        assert other.tip("thread-3") is None
    with pytest.raises(UnknownName, match="no conversation"):
        export_archive(store, tmp_path / "b.zip", conversations=["never"])
    assert not (tmp_path / "b.zip").exists()


def test_what_was_erased_here_stays_erased(store: Store, tmp_path: Path) -> None:
    turn = store.record(make_turn())
    export_archive(store, tmp_path / "a.zip")
    store.erase([turn.id])
    assert import_archive(store, tmp_path / "a.zip").erased == 1
    with pytest.raises(UnknownName, match="erased"):
        store.turn(turn.id)


def test_a_redacted_archive_says_nothing(store: Store, tmp_path: Path) -> None:
    _fill(store)
    export_archive(store, tmp_path / "a.zip", redact=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
        assert archive.namelist() == ["manifest.json", "turns.jsonl", "media.jsonl", "memo.jsonl", "voices.jsonl"]
        first = json.loads(archive.read("turns.jsonl").splitlines()[0])
    for hidden in (SECRET, "Ann", "thread-1", "asked", medium(b"asked" * 100).hash, "here you are"):
        assert hidden.encode() not in everything
    assert first["turn"]["prompt"] == 11
    assert first["turn"]["generation"]["ids"] == 20
    assert first["turn"]["request"][1]["span"] == {"modality": "speech", "ids": 2}
    with memory_store() as other, pytest.raises(StoreError, match="is redacted"):
        import_archive(other, tmp_path / "a.zip")


def _rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            data = change(name, before.read(name))
            if data is not None:
                after.writestr(name, data)


def _in_first_turn(edit: Callable[[dict[str, Any]], Any]) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != "turns.jsonl":
            return data
        lines = data.splitlines(keepends=True)
        line = json.loads(lines[0])
        edit(line)
        return json.dumps(line).encode() + b"\n" + b"".join(lines[1:])

    return change


ALTERED: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "one id": (_in_first_turn(lambda line: line["turn"]["generation"]["ids"].__setitem__(3, 1)), "match its digest"),
    "one seed": (_in_first_turn(lambda line: line["turn"]["generation"].update(seed=1)), "match its digest"),
    "one hash": (_in_first_turn(lambda line: line.update(hash="t1:00")), "match its hash"),
    "a blob": (lambda name, data: b"other" if name.startswith("blobs/") else data, "does not match its hash"),
    "no blobs": (lambda name, data: None if name.startswith("blobs/") else data, "lacks the medium"),
    "a line gone": (
        lambda name, data: data.split(b"\n", 1)[1] if name == "turns.jsonl" else data,
        "which is not in it",
    ),
    "last line gone": (
        lambda name, data: b"".join(data.splitlines(keepends=True)[:-1]) if name == "turns.jsonl" else data,
        "cut short",
    ),
    "no media": (lambda name, data: b"" if name == "media.jsonl" else data, "does not describe"),
    "no turns": (lambda name, data: None if name == "turns.jsonl" else data, "lacks turns.jsonl"),
    "not JSON": (lambda name, data: b"{" + data if name == "turns.jsonl" else data, "Line 1 of turns.jsonl"),
    "wrong kind": (_in_first_turn(lambda line: line["turn"].update(request=7)), "Line 1 of turns.jsonl"),
    "a path for a hash": (
        lambda name, data: data.replace(b"sha256:", b"../../etc/") if name == "media.jsonl" else data,
        "Line 1 of media.jsonl",
    ),
    "newer": (lambda name, data: data.replace(b'"version": 1', b'"version": 2') if "mani" in name else data, "upgrade"),
    "something else": (
        lambda name, data: data.replace(b"anyloom-archive", b"x") if "mani" in name else data,
        "not say",
    ),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_archive_is_refused_whole(what: str, tmp_path: Path) -> None:
    change, said = ALTERED[what]
    with memory_store() as store:
        _fill(store)
        export_archive(store, tmp_path / "good.zip")
    _rewrite(tmp_path / "good.zip", tmp_path / "bad.zip", change)
    with memory_store() as other:
        with pytest.raises(StoreError, match=said):
            import_archive(other, tmp_path / "bad.zip")
        assert other.turns() == []
        assert list(other.files.names()) == []


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK, but not really")
    with memory_store() as store:
        with pytest.raises(StoreError, match="no archive"):
            import_archive(store, tmp_path / "a.zip")
        with pytest.raises(StoreError, match="can't be read"):
            import_archive(store, tmp_path / "missing.zip")
        with pytest.raises(StoreError, match="can't be written"):
            export_archive(store, tmp_path / "no" / "such" / "folder.zip")
