"""Sources, keys, shards and manifests, undecorated and in milliseconds; Prefect isn't imported by what they test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid5

import pytest

from anyloom.anygpt_model.errors import InputError, SettingsError, UnknownName
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Part, Turn
from anyloom.flows import quiet
from anyloom.flows.conversion import Conversion
from anyloom.flows.destination import Destination, file_name, manifest_rows
from anyloom.flows.ledger import Asked, row
from anyloom.flows.planning import Order, estimate, leading, planned
from anyloom.flows.shards import Shard, reason
from anyloom.flows.sources import Input, Source
from anyloom.nodes.recording import RUNS
from anyloom.nodes.state import Context
from anyloom.storage.store import Store, memory_store

MODEL = {"llm": "sha256:1"}


@pytest.fixture
def store() -> Iterator[Store]:
    with memory_store() as opened:
        yield opened


class Scripted:
    """Stands where the graph is: records a turn that repeats the request's text."""

    def __init__(self, store: Store, short: int = 0) -> None:
        self.store = store
        self.asked: list[str] = []
        self.short = short

    def __call__(self, messages: Sequence[tuple[Any, Context]]) -> list[Turn | Exception]:
        return [self.tried(message, context) for message, context in messages]

    def tried(self, message: Any, context: Context) -> Turn | Exception:
        try:
            return self.one(message, context)
        except Exception as error:
            return error

    def one(self, message: Any, context: Context) -> Turn:
        text = message.text
        self.asked.append(text)
        if text == "bad":
            raise InputError("The text is bad; say something else.")
        if text == "odd":
            raise ZeroDivisionError("division by zero")
        if self.short:
            self.short -= 1
            raise MemoryError
        assert context.run is not None
        return self.store.record(echo(context.run, text))


def echo(run: str, text: str) -> Turn:
    return Turn(
        id=uuid5(RUNS, run).hex, conversation=run, parent=None, run=run, request=(), prompt=(1,), bounds=Bounds(),
        reply=(Part(Modality.TEXT, text=f"you said {text}", generated=True),), sampling={}, model="fake",
        generation=Generation((5, 6), (-1.0, -1.0), (1.0, 1.0), "end", 0), fingerprints=MODEL, versions={},
        timings={"generate": 0.5}, options={}, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def table(folder: Path, *texts: str) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "colour": "red"}) + "\n" for text in texts))
    return str(path)


def shard(store: Store, source: str, out: Path, ask: Any) -> Shard:
    opened = Source(source)
    job = store.jobs.open("job", {})
    store.jobs.add(job, [row(item, opened, Asked("text"), MODEL) for item in opened.inputs()])
    return Shard(job, store, Conversion("job", store, ask, opened, Destination(str(out))))


def rows(store: Store) -> list[Any]:
    return store.jobs.rows(store.jobs.job("job"))


# Sources


def test_a_folder_lists_its_files_but_no_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.txt", "b/c.png", ".hidden", "b/.cache"):
        (tmp_path / name).write_text("x")
    found = Source(str(tmp_path)).inputs()
    assert [item.name for item in found] == ["a.txt", "b/c.png"]
    assert found[0].text_file is not None
    assert found[1].media == ((str(tmp_path / "b/c.png"), None),)


def test_a_glob_takes_what_it_matches(tmp_path: Path) -> None:
    for name in ("a.wav", "b.txt", "c.wav"):
        (tmp_path / name).write_text("x")
    assert len(Source(f"{tmp_path}/*.wav").inputs()) == 2


def test_a_csv_names_texts_files_options_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufefftext,image,media,to,seed,id,shelf\nhello,a.png,b.wav; c.wav,image,7,first,12\nbye,,,,,,\n")
    first, second = Source(str(path)).inputs()
    assert (first.name, first.text, first.to, first.seed, dict(first.metadata)) == (
        "first",
        "hello",
        "image",
        7,
        {"shelf": "12"},
    )
    assert [(Path(file).name, said) for file, said in first.media] == [
        ("a.png", "image"),
        ("b.wav", None),
        ("c.wav", None),
    ]
    assert second == Input("row 000002", "bye")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "a"}\nno json\n', "line 2 is not JSON"),
        ("[1]\n", "line 1 is list"),
        ('{"id": 1}\n{"id": 1}\n', "names '1' twice"),
        ('{"seed": "x"}\n', "a seed is a whole number"),
        ('{"seed": 1.5}\n', "a seed is a whole number"),
        ('{"seed": 9223372036854775808}\n', "at most 63 bits"),
        ('{"note": NaN}\n', "line 1 is not JSON .NaN"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("", "holds nothing"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        Source(str(path)).inputs()


def test_long_cells_and_any_sign_between_quotes_are_taken(tmp_path: Path) -> None:
    long, odd = "x" * 200_000, "one\u2028two\x85three"
    (tmp_path / "rows.csv").write_text(f"text,note\nhello,{long}\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": odd}, ensure_ascii=False) + "\n")
    assert [dict(item.metadata) for item in Source(str(tmp_path / "rows.csv")).inputs()] == [{"note": long}]
    assert [item.text for item in Source(str(tmp_path / "rows.jsonl")).inputs()] == [odd]


def test_what_is_no_character_is_one_items_failure(tmp_path: Path, store: Store) -> None:
    """Half of a pair in a text; beside it a file's name and metadata that are not UTF-8 either, which harm nothing."""
    folder = tmp_path / "in"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("hello")
    (folder / "rows.jsonl").write_text(
        '{"text": "a\\ud800"}\n{"text": "b", "note": "\\ud800"}\n{"image": "a\\u0000b"}\n'
    )
    for number, where in enumerate((str(folder / "rows.jsonl"), f"{folder}/*.txt")):
        given = shard(store, where, tmp_path / "out", Scripted(store))
        assert given.work("w", 9)["done"] == 1, number
    found = rows(store)
    assert [item.state for item in found] == ["failed", "done", "failed", "done"]
    assert "no character" in found[0].reason
    assert "no path" in found[2].reason
    assert found[3].name.endswith("caf\\udce9.txt")
    place = Destination(str(tmp_path / "out"))
    place.write_manifest(manifest_rows(found, [item.name for item in found]))
    told = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert told[1]["metadata"] == {"note": "\ud800"}
    assert Path(told[3]["inputs"][0]).read_text() == "hello"


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Source(str(tmp_path / "nothing")).inputs()
    with pytest.raises(SettingsError, match="fsspec"):
        Source("nosuch://place")


def test_other_places_are_read_through_fsspec() -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/flows/in/a.txt", b"hello")
    source = Source("memory://flows/in")
    (item,) = source.inputs()
    assert source.read(str(item.text_file), 100) == b"hello"
    Destination("memory://flows/out").put("x.bin", b"1")
    assert files.cat_file("/flows/out/x.bin") == b"1"


# Keys


def test_a_key_changes_with_content_options_and_model_only(tmp_path: Path) -> None:
    source = Source(table(tmp_path, "hello", "hello", "other"))
    one, twin, other = source.inputs()
    asked = Asked("image", seed=3)
    key = row(one, source, asked, MODEL).key
    assert key == row(twin, source, asked, MODEL).key
    assert row(one, source, asked, MODEL).source["seed"] == row(twin, source, asked, MODEL).source["seed"]
    changed = [
        row(other, source, asked, MODEL),
        row(one, source, replace(asked, seed=4), MODEL),
        row(one, source, replace(asked, to="text"), MODEL),
        row(one, source, asked, {"llm": "sha256:2"}),
    ]
    assert len({key, *(entry.key for entry in changed)}) == 5


def test_a_changed_file_makes_its_item_stale(tmp_path: Path, store: Store) -> None:
    (tmp_path / "a.txt").write_text("one")
    source = Source(str(tmp_path))
    (item,) = source.inputs()
    job = store.jobs.open("job", {})
    store.jobs.add(job, [row(item, source, Asked("text"), MODEL)])
    (tmp_path / "a.txt").write_text("two")
    assert store.jobs.plan(job, [row(item, source, Asked("text"), MODEL)]).stale == 1


# Shards


def test_a_shard_finishes_its_items_and_sets_bad_ones_aside(tmp_path: Path, store: Store) -> None:
    ask = Scripted(store)
    counts = shard(store, table(tmp_path, "one", "bad", "odd", "", "two"), tmp_path / "out", ask).work("w", 10)
    assert counts == {"done": 2, "failed": 3}
    states = {item.name[-1]: (item.state, item.reason) for item in rows(store)}
    assert states["1"] == ("done", None)
    assert states["2"] == ("failed", "The text is bad; say something else.")
    assert states["3"] == ("failed", "ZeroDivisionError: division by zero")
    assert states["4"][1] == "The request is empty; give the item a text or a file."


def test_a_shard_takes_no_more_than_its_size(tmp_path: Path, store: Store) -> None:
    ask = Scripted(store)
    work = shard(store, table(tmp_path, *"abcde"), tmp_path / "out", ask)
    assert work.work("w", 2) == {"done": 2, "failed": 0}
    assert work.work("w", 2) == {"done": 2, "failed": 0}
    assert work.work("w", 2) == {"done": 1, "failed": 0}
    assert sorted(ask.asked) == list("abcde")


def test_work_that_was_recorded_before_a_kill_is_not_done_again(tmp_path: Path, store: Store) -> None:
    ask = Scripted(store)
    work = shard(store, table(tmp_path, "one"), tmp_path / "out", ask)
    (item,) = rows(store)
    store.record(echo(f"job/{item.key}", "one"))
    assert work.work("w", 5) == {"done": 1, "failed": 0}
    assert ask.asked == []


def test_short_memory_halves_the_batch_and_loses_nothing(tmp_path: Path, store: Store) -> None:
    ask = Scripted(store, short=9)
    assert shard(store, table(tmp_path, *"abcdefgh"), tmp_path / "out", ask).work("w", 8) == {"done": 8, "failed": 0}


def test_memory_that_is_never_enough_is_a_reason(tmp_path: Path, store: Store) -> None:
    ask = Scripted(store, short=10_000)
    assert shard(store, table(tmp_path, "a"), tmp_path / "out", ask).work("w", 8) == {"done": 0, "failed": 1}
    assert rows(store)[0].reason == "MemoryError"


def test_a_file_that_lies_about_itself_is_set_aside_with_the_reason(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_text("no picture")
    (folder / "b.wav").write_bytes(b"")
    (folder / "c.txt").write_bytes(b"\xff\xfe\x00")
    shard(store, str(folder), tmp_path / "out", Scripted(store)).work("w", 8)
    told = [item.reason or "" for item in rows(store)]
    assert "content is text" in told[0]
    assert "empty" in told[1]
    assert "not UTF-8" in told[2]


def test_reasons_are_one_line() -> None:
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    assert reason(UnknownName("There is no x.")) == "There is no x."


# Manifest, estimate, lock


def test_the_manifest_has_a_row_for_every_input_in_its_order(tmp_path: Path, store: Store) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    shard(store, table(tmp_path, "same", "bad", "same"), tmp_path / "out", Scripted(store)).work("w", 10)
    names = ["row 000003", "row 000002", "row 000001", "row 000009"]
    told = manifest_rows(rows(store), names)
    assert [entry["name"] for entry in told] == names[:3]
    assert told[0]["turn"] == told[2]["turn"] is not None
    assert told[0]["text"] == "you said same"
    assert told[1]["error"].startswith("The text is bad")
    assert told[0]["metadata"] == {"colour": "red"}
    Destination(str(tmp_path / "out")).write_manifest(told)
    lines = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done", "failed", "done"]
    assert pyarrow.parquet.read_table(tmp_path / "out/manifest.parquet").num_rows == 3


def test_result_names_come_from_turns_only() -> None:
    assert file_name("ab12", 2, "image/png") == "ab12-2.png"
    assert file_name("ab12", 1, "../../etc") == "ab12-1.bin"


def test_a_dry_run_counts_and_estimates_without_writing(tmp_path: Path, store: Store) -> None:
    given = Order(table(tmp_path, "a", "b"), str(tmp_path), Asked("music"), "pocket", None, "sqlite://")
    opened = Source(given.source)
    items = [row(item, opened, given.asked, MODEL) for item in opened.inputs()]
    assert planned(store, given, items).to_do == 2
    assert store.jobs.all() == []
    assert estimate(store, given, items, 2) == {"tokens": 1020, "seconds": None}
    assert Order.from_document(json.loads(json.dumps(given.document()))) == given


def test_a_job_is_led_by_one_process_at_a_time() -> None:
    with leading("job"), leading("another"), pytest.raises(SettingsError, match="Another process"), leading("job"):
        pass
    with leading("job"):
        pass


# What a kill leaves


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_server_whose_flow_is_gone_is_ended_and_others_are_left() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "prefect.server.api.server:create_app"]
    mine = f"{os.getpid()}:{quiet._started(os.getpid())}"
    orphan = subprocess.Popen(command, env={**os.environ, quiet.OWNER: "999999999:1"})
    owned = subprocess.Popen(command, env={**os.environ, quiet.OWNER: mine})
    stranger = subprocess.Popen(command, env={k: v for k, v in os.environ.items() if k != quiet.OWNER})
    try:
        for process in (orphan, owned, stranger):
            _until_it_runs(process.pid)
        assert quiet.sweep() == [orphan.pid]
        assert orphan.wait(5) == -signal.SIGTERM
        assert owned.poll() is None
        assert stranger.poll() is None
    finally:
        for process in (orphan, owned, stranger):
            process.kill()
            process.wait()


def _until_it_runs(process: int) -> None:
    """A forked process shows its parent's command line until it has become the new program."""
    while quiet.SERVER not in Path(f"/proc/{process}/cmdline").read_bytes():
        pass
