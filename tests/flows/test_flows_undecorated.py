"""The flows' functions without Prefect's engine (`.fn`), their settings and their documents: milliseconds each."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyloom.anygpt_model.errors import InputError, SettingsError
from anyloom.flows import quiet, runners, shards
from anyloom.flows.conversion import TookTooLong, asking
from anyloom.flows.ledger import Asked
from anyloom.flows.planning import Order, _pace, wanted
from anyloom.flows.shards import SHORT_WAVE, WAVE, Result, Shard, each, short_of_memory
from anyloom.flows.sources import Source
from anyloom.nodes.state import Context
from anyloom.storage.jobs import NewItem
from anyloom.storage.store import Store, memory_store

pytest.importorskip("prefect")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store() -> Iterator[Store]:
    with memory_store() as opened:
        yield opened


def filled(store: Store, *keys: str) -> Any:
    job = store.jobs.open("job", {})
    store.jobs.add(job, [NewItem(f"row {n}", key, {}) for n, key in enumerate(keys)])
    return job


def test_a_shard_task_works_its_items_undecorated(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyloom.flows import convert as module

    given = Order(str(tmp_path), str(tmp_path / "out"), Asked("text"), "pocket", None, "sqlite://")
    job = store.jobs.open(given.job, {})
    store.jobs.add(job, [NewItem("a", "key", {})])
    monkeypatch.setattr(module, "workplace", lambda *_: SimpleNamespace(store=store))
    monkeypatch.setattr(module, "Conversion", lambda *_: each(lambda item: Result(None, {"tokens": 1})))
    assert module.convert_shard.fn(given.document(), 1, 5) == {"done": 1, "failed": 0}
    assert store.jobs.rows(job)[0].worker == module.worker_name(1)


def test_the_end_state_says_what_failed() -> None:
    from anyloom.flows.convert import TooManyFailed, ended

    counts = {
        "done": 3,
        "failed": 1,
        "skipped": 0,
        "left": 0,
        "manifest": "out/manifest.jsonl",
        "reasons": {"a": "No."},
    }
    assert ended(counts, 0.25).name == "CompletedWithFailures"
    assert ended({**counts, "failed": 0}, 0.0).name == "CompletedWithFailures"
    assert ended({**counts, "failed": 0, "reasons": {}}, 0.0).name == "Completed"
    with pytest.raises(TooManyFailed, match=r"1 failed.*more than the 20%"):
        ended(counts, 0.2)


def test_evaluate_fails_only_if_it_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyloom.flows import evaluate as module

    rows = [SimpleNamespace(direction="text to image", above_chance=above) for above in (False, True)]
    rows.append(SimpleNamespace(direction="text to music", above_chance=False))
    monkeypatch.setattr(module, "measure", lambda *_: SimpleNamespace(rows=rows, model="pocket"))
    assert "1 of 2" in module.evaluate.fn().message
    with pytest.raises(module.NotAboveChance, match="text to music"):
        module.evaluate.fn(strict=True)


def test_a_turn_that_cannot_be_replayed_is_a_finding() -> None:
    from anyloom.flows.reverify import Drifted, checked, judged

    def replay(turn: str) -> Any:
        if turn == "gone":
            raise InputError("The turn is gone.")
        return SimpleNamespace(verdict="identical", findings=[])

    found = checked(["here", "gone"], replay)
    assert [entry["verdict"] for entry in found] == ["identical", "failed"]
    assert "2 turns" in judged(found, 0.5).message
    with pytest.raises(Drifted, match="The turn is gone"):
        judged(found, 0.0)


def test_replaying_no_turn_is_refused() -> None:
    from anyloom.flows.reverify import reverify

    with pytest.raises(SettingsError, match="A limit of 0 turns came; give 1 or more"):
        reverify.fn(limit=0)


def test_every_parameter_of_a_flow_is_described_for_its_page() -> None:
    from anyloom.flows.convert import convert
    from anyloom.flows.evaluate import evaluate
    from anyloom.flows.reverify import reverify
    from anyloom.flows.tokenize import tokenize

    for flow in (convert, evaluate, reverify, tokenize):
        schema = flow.parameters.model_dump()
        assert all(entry.get("description") for entry in schema["properties"].values()), flow.name
    assert convert.parameters.properties["to"]["enum"] == ["text", "image", "speech", "music"]


def test_no_item_is_begun_after_the_deadline(store: Store) -> None:
    job = filled(store, "a", "b")
    asked: list[str] = []
    work = each(lambda item: asked.append(item.name) or Result(None, {}))  # type: ignore[func-returns-value]
    shard = Shard(job, store, work, time.time() - 1)
    assert shard.work("w", 5) == {"done": 0, "failed": 0}
    assert (asked, store.jobs.counts(job)["pending"]) == ([], 2)


def test_equal_items_wait_for_the_first_of_them(store: Store) -> None:
    job = filled(store, "a", *["b"] * 5, "a")
    made: list[str] = []

    def work(item: Any) -> Result:
        first = item.key not in made
        time.sleep(0.01 if first else 0)
        made.append(item.key)
        return Result(None, {"first": first})

    assert Shard(job, store, each(work)).work("w", 9) == {"done": 7, "failed": 0}
    assert sum(item.outputs["first"] for item in store.jobs.rows(job) if item.outputs) == 2


def test_a_task_that_comes_again_takes_up_what_it_held(store: Store) -> None:
    job = filled(store, "a", "b")
    assert len(store.jobs.claim(job, "w", 1)) == 1
    assert Shard(job, store, each(lambda item: Result(None, {}))).work("w", 2) == {"done": 2, "failed": 0}


def test_short_memory_has_many_names() -> None:
    assert short_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert short_of_memory(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"))
    assert not short_of_memory(RuntimeError("no"))


def test_a_wave_that_is_refused_as_a_whole_fails_item_by_item(store: Store) -> None:
    job = filled(store, *map(str, range(WAVE + 1)))

    def work(items: Any) -> Any:
        if len(items) == WAVE:
            raise InputError("No.")
        return [Result(None, {})] * len(items)

    assert Shard(job, store, work).work("w", 99) == {"done": 1, "failed": WAVE}
    assert {item.reason for item in store.jobs.rows(job)} == {"No.", None}


def test_short_replies_go_in_larger_waves_unless_a_clock_runs_for_each() -> None:
    from anyloom.flows.convert import wave

    def size(to: str, item_timeout: float | None = None) -> int:
        return wave(Order("in", "out", Asked(to), "pocket", None, "sqlite://", item_timeout=item_timeout))

    assert (size("text"), size("text", 5.0), size("speech")) == (SHORT_WAVE, WAVE, WAVE)


def test_tasks_are_few_and_every_worker_gets_several() -> None:
    from anyloom.flows.running import shard_size

    assert [shard_size(items, 2) for items in (5, 500, 1200, 10_000)] == [128, 128, 300, 512]
    assert shard_size(10_000, 16) == 313


def test_a_shard_works_as_many_items_together_as_it_is_told(store: Store) -> None:
    job, sizes = filled(store, *map(str, range(7))), []

    def work(items: Any) -> Any:
        sizes.append(len(items))
        return [Result(None, {})] * len(items)

    assert Shard(job, store, work, wave=3).work("w", 7) == {"done": 7, "failed": 0}
    assert sorted(sizes) == [1, 3, 3]


def test_leases_are_renewed_while_a_wave_takes_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LEASE", 0.03)
    job = filled(store, "a")
    again: list[int] = []

    def work(item: Any) -> Result:
        time.sleep(0.1)
        again.append(len(store.jobs.claim(job, "another", 1)))
        return Result(None, {})

    assert Shard(job, store, each(work)).work("w", 1) == {"done": 1, "failed": 0}
    assert again == [0]


def test_items_that_take_too_long_are_told() -> None:
    def turns(messages: Any, cancelled: Any) -> list[Any]:
        while not cancelled():
            time.sleep(0.001)
        return ["in time", None]

    place: Any = SimpleNamespace(side_by_side=SimpleNamespace(turns=turns))
    done, late = asking(place, 0.01)([("message", Context())] * 2)  # type: ignore[list-item]
    assert done == "in time"
    assert isinstance(late, TookTooLong)
    assert "more than 0.01 s" in str(late)


def test_stale_means_known_with_another_key(store: Store) -> None:
    job = filled(store, "a", "b")
    items = [NewItem("row 0", "changed", {}), NewItem("row 1", "b", {}), NewItem("new", "c", {})]
    assert wanted(store, job, items, only_stale=True) == items[:2]
    assert wanted(store, None, items, only_stale=True) == []
    assert wanted(store, None, items, only_stale=False) == items


def test_pace_leaves_pauses_out() -> None:
    assert _pace([0.0, 1.0, 3.0, 9_000.0, 9_002.0]) == pytest.approx(5 / 3)
    assert _pace([1.0]) is None


def test_columns_are_mapped_and_unknown_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,text,photo\nwhat is it?,a note,a.png\n")
    [item] = Source(str(path), {"text": "question", "image": "photo"}).inputs()
    assert (item.text, item.media) == ("what is it?", ((str(tmp_path / "a.png"), "image"),))
    with pytest.raises(SettingsError, match="'smell'"):
        Source(str(path), {"smell": "question"})
    with pytest.raises(SettingsError, match=r"no column 'ask'.*first row has 'question', 'text', 'photo'"):
        Source(str(path), {"text": "ask"}).inputs()


def test_runners_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(runners.task_runner()).__name__ == "ThreadPoolTaskRunner"
    monkeypatch.setenv("ANYLOOM_TASK_RUNNER", "processes")
    assert type(runners.task_runner()).__name__ == "ProcessPoolTaskRunner"
    runners.check_database("sqlite:///x.db")
    monkeypatch.setenv("ANYLOOM_TASK_RUNNER", "ray")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'anyloom\[ray\]'"):
        runners.task_runner()
    assert runners.on_this_machine()
    monkeypatch.setenv("ANYLOOM_TASK_ADDRESS", "ray://elsewhere:10001")
    assert not runners.on_this_machine()
    runners.check_database("postgresql+psycopg://here/there")
    with pytest.raises(SettingsError, match="PostgreSQL"):
        runners.check_database("sqlite:///x.db")
    monkeypatch.setenv("ANYLOOM_TASK_WORKERS", "0")
    with pytest.raises(SettingsError, match="ANYLOOM_TASK_WORKERS"):
        runners.runner_settings()


@pytest.mark.parametrize("database", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_a_ledger_in_memory_is_refused(database: str) -> None:
    with pytest.raises(SettingsError, match="in memory"):
        runners.check_database(database)


def test_deployments_name_flows_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    from importlib import import_module

    told = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in told["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        known = getattr(import_module(module), name).parameters.properties
        assert set(deployment["parameters"]) <= set(known), deployment["name"]


def test_served_flows_are_found_by_module() -> None:
    from importlib import import_module

    from anyloom.flows.serve import deployments

    for deployment in deployments("* * * * *", {"source": "in", "to": "text", "out": "out"}):
        module, _, name = deployment.entrypoint.rpartition(".")
        assert getattr(import_module(module), name).name == deployment.flow_name


@pytest.mark.parametrize(
    ("cron", "given", "said"),
    [
        ("soon", {"source": "in", "to": "text", "out": "out"}, "'soon' can't be read"),
        ("0 3 * * *", {"source": "in"}, "needs --to and --out"),
        ("0 3 * * *", {"source": "in", "to": "smell", "out": "out"}, "smell"),
        ("0 3 * * *", {"source": "in", "to": "text", "out": "out"}, "127.0.0.1:1/api does not answer"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    cron: str, given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from anyloom.flows.serve import serve

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}), pytest.raises(InputError, match=said):
        serve(cron, given)


def test_a_worker_that_was_ended_is_told_in_one_sentence() -> None:
    from concurrent.futures.process import BrokenProcessPool

    from prefect.futures import PrefectConcurrentFuture

    from anyloom.flows.running import WorkerDied, _watched

    wrapped: Future[Any] = Future()
    wrapped.set_exception(BrokenProcessPool("A child process terminated abruptly."))
    looks: list[int] = []
    error = _watched([PrefectConcurrentFuture(uuid.uuid4(), wrapped)], lambda: looks.append(1))
    assert isinstance(error, WorkerDied)
    assert "ANYLOOM_TASK_WORKERS" in str(error)
    assert looks


def test_the_compose_file_sets_what_the_worker_reads() -> None:
    yaml = pytest.importorskip("yaml")
    told = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(told["services"]) == {"postgres", "server", "worker"}
    worker = told["services"]["worker"]
    assert worker["environment"]["ANYLOOM_DATABASE_URL"].startswith("postgresql+psycopg://")
    assert "prefect worker start --pool anyloom" in worker["command"]
    assert (ROOT / worker["build"] / "Dockerfile").exists()
    assert "password" not in json.dumps(told["services"]).lower().replace("postgres_password", "")


def test_settings_that_somebody_made_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "/somewhere")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    before = quiet.os.environ["PREFECT_HOME"]
    quiet.settle()
    assert quiet.os.environ["PREFECT_HOME"] == before
    assert quiet.os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_prefect_finds_its_home_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "new" / "anyloom"))
    quiet.settle()
    assert quiet.os.environ["PREFECT_HOME"] == str(tmp_path / "new" / "anyloom" / "prefect")
    assert (tmp_path / "new" / "anyloom" / "prefect").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "file"))
    quiet.settle()
