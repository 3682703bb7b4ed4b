"""The ledger of jobs: each piece of work once, whoever does it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from store_samples import make_turn

from anyloom.anygpt_model.errors import UnknownName
from anyloom.storage.jobs import Item, Job, NewItem, Plan
from anyloom.storage.store import Store


def _items(count: int, key: str = "k") -> list[NewItem]:
    return [NewItem(f"row {n:03}", f"{key}{n}", {"path": f"{n}.png"}) for n in range(count)]


@pytest.fixture
def job(store: Store) -> Job:
    """A job without items."""
    return store.jobs.open("pictures", {"to": "image"})


def test_a_job_is_known_by_its_name(store: Store, job: Job) -> None:
    again = store.jobs.open("pictures", {"to": "speech"})
    assert (again.number, again.settings, again.created) == (job.number, {"to": "speech"}, job.created)
    assert store.jobs.all() == [again]
    with pytest.raises(UnknownName):
        store.jobs.job("sounds")


def test_adding_twice_changes_nothing(store: Store, job: Job) -> None:
    assert store.jobs.plan(job, _items(3)) == Plan(new=3)
    assert store.jobs.counts(job)["pending"] == 0
    assert store.jobs.add(job, _items(3)) == Plan(new=3)
    for item in store.jobs.claim(job, "w", 1):
        store.jobs.done(item, None, {"text": "x"})
    assert store.jobs.add(job, _items(4)) == Plan(new=1, pending=2, done=1)
    assert store.jobs.counts(job) == {"pending": 3, "running": 0, "done": 1, "failed": 0}


def test_another_key_makes_a_result_stale(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(2))
    for item in store.jobs.claim(job, "w", 2):
        assert store.jobs.done(item, None, {"text": item.name})
    changed = [_items(2)[0], _items(2, key="other")[1]]
    assert store.jobs.plan(job, changed) == Plan(stale=1, done=1)
    store.jobs.add(job, changed)
    (pending,) = store.jobs.rows(job, "pending")
    assert (pending.name, pending.key, pending.outputs, pending.attempts) == ("row 001", "other1", None, 0)


def test_equal_inputs_are_items_of_their_own_and_share_results(store: Store, job: Job) -> None:
    store.jobs.add(job, [NewItem("a", "same", {}), NewItem("b", "same", {})])
    first, second = store.jobs.claim(job, "w", 5)
    assert store.jobs.result(job, "same") is None
    store.jobs.done(first, None, {"text": "x"})
    shared = store.jobs.result(job, second.key)
    assert shared is not None
    assert shared.outputs == {"text": "x"}
    assert store.jobs.counts(job)["running"] == 1


def test_a_result_is_taken_once_and_only_for_its_key(store: Store, job: Job) -> None:
    turn = store.record(make_turn())
    store.jobs.add(job, _items(1))
    (item,) = store.jobs.claim(job, "w", 1)
    assert store.jobs.done(item, turn.id, {"text": "first"})
    assert not store.jobs.done(item, turn.id, {"text": "second"})
    assert not store.jobs.fail(item, "too late")
    assert [(row.state, row.turn, row.outputs) for row in store.jobs.rows(job)] == [
        ("done", turn.id, {"text": "first"})
    ]
    store.jobs.add(job, _items(1, key="other"))
    assert not store.jobs.done(item, turn.id, {"text": "stale"})


def test_failures_keep_their_reason_until_retried(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(2))
    for item in store.jobs.claim(job, "w", 2):
        store.jobs.fail(item, f"{item.name} can't be read.")
    assert [row.reason for row in store.jobs.rows(job, "failed")] == [
        "row 000 can't be read.",
        "row 001 can't be read.",
    ]
    assert store.jobs.claim(job, "w", 2) == []
    assert store.jobs.retry_failed(job) == 2
    assert [item.attempts for item in store.jobs.claim(job, "w", 2)] == [2, 2]


def test_a_lapsed_lease_and_a_release_give_items_back(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(3))
    gone = store.jobs.claim(job, "gone", 2, lease=-1.0)
    store.jobs.renew(gone[1:], lease=60.0)
    assert [item.name for item in store.jobs.claim(job, "next", 3)] == ["row 000", "row 002"]
    assert store.jobs.release(job, "gone") == 1
    assert [item.name for item in store.jobs.claim(job, "next", 3)] == ["row 001"]


def test_pending_items_that_nobody_names_are_found(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(4))
    store.jobs.done(store.jobs.claim(job, "w", 1)[0], None, {})
    found = store.jobs.pending_beside(job, {"row 001", "row 009"})
    assert [(item.name, item.key, item.state) for item in found] == [
        ("row 002", "k2", "pending"),
        ("row 003", "k3", "pending"),
    ]
    assert store.jobs.pending_beside(job, {f"row {n:03d}" for n in range(4)}) == []


def test_rows_come_in_pages(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(5))
    pages: list[list[Item]] = []
    while page := store.jobs.rows(job, after=pages[-1][-1].number if pages else 0, limit=2):
        pages.append(page)
    assert [row.name for page in pages for row in page] == [f"row {n:03}" for n in range(5)]


def test_no_two_workers_get_the_same_item(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(40))

    def work(name: str) -> list[str]:
        taken: list[str] = []
        while items := store.jobs.claim(job, name, 3):
            taken += [item.name for item in items]
            for item in items:
                assert store.jobs.done(item, None, {})
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [name for names in pool.map(work, "abcd") for name in names]
    assert sorted(taken) == [item.name for item in _items(40)]


def test_many_items_end_in_one_go_each_as_alone(store: Store, job: Job) -> None:
    store.jobs.add(job, _items(4))
    done, failed, other, _ = store.jobs.claim(job, "w", 4)
    store.jobs.done(other, None, {"text": "first"})
    store.jobs.finish([(done, None, {"text": "x"}), (other, None, {"text": "second"})], [(failed, "It is bad.")])
    told = [(item.state, item.outputs, item.reason) for item in store.jobs.rows(job)]
    first = [("done", {"text": "x"}, None), ("failed", None, "It is bad."), ("done", {"text": "first"}, None)]
    assert told == [*first, ("running", None, None)]
