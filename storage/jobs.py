"""Jobs and their items: the ledger by which a batch does each piece of work exactly once.

A **job** is known by its name. An **item** is one row of its input: `name` is the row's identity within the job, so two
equal inputs are two items; `key` says what is to be done, as a hash over the input, the settings and the model's
fingerprint. Adding an item again changes nothing while its key is the same; with another key its result is stale and it
is pending anew.

    pending -- claim --> running -- done --> done
       ^                    |------ fail --> failed -- retry_failed --> pending
       +--- release, or the lease lapses

For exactly once across a kill, record an item's turn under a run id made of job, name and key: a worker that dies
between `record` and `done` leaves a turn that the next one gets back instead of a second. Knows no flow and no file.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, or_, select, update

from ..anygpt_model.errors import UnknownName
from .database import Database, upsert
from .rows import BATCH, now
from .tables import ItemRow, JobRow

State = Literal["pending", "running", "done", "failed"]
STATES: tuple[State, ...] = ("pending", "running", "done", "failed")
Document = dict[str, Any]
ENDED = ("state", "turn", "outputs", "reason", "updated")
FINISH = (
    update(ItemRow)
    .where(ItemRow.number == bindparam("of"), ItemRow.key == bindparam("under"))
    .where(or_(ItemRow.state == "pending", ItemRow.state == "running"))
    .values(lease=None, **{name: bindparam(name) for name in ENDED})
)
"""Ends an item that is open still and has the key that it had. Made once, as every item needs it (rows.py says why)."""


@dataclass(frozen=True, slots=True)
class Job:
    """A batch job. settings: a JSON document, those of its last opening. created: ISO 8601, UTC."""

    number: int
    name: str
    settings: Document
    created: str


@dataclass(frozen=True, slots=True)
class NewItem:
    """A row of the input, to be added. source: a JSON document that says where the input is and what goes with it."""

    name: str
    key: str
    source: Document


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the ledger. outputs: a JSON document of a done item. reason: why it failed, one sentence.

    updated: seconds since 1970. number: grows in the order of adding.
    """

    number: int
    job: int
    name: str
    key: str
    source: Document
    state: State
    attempts: int
    worker: str | None
    turn: str | None
    outputs: Document | None
    reason: str | None
    updated: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What adding items would do, or did: how many are new, stale (there with another key), or there in which state."""

    new: int = 0
    stale: int = 0
    pending: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0

    @property
    def to_do(self) -> int:
        """Items that a run would work on, failed ones left out."""
        return self.new + self.stale + self.pending + self.running


class Jobs:
    """The jobs of one store. Every method is one transaction; any number of processes may work on a job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, name: str, settings: Document) -> Job:
        """The job of that name, made if it is new; its settings become these."""
        with self._database.writing() as connection:
            row = upsert(connection, JobRow).values(name=name, settings=settings, created=now())
            connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"settings": settings}))
        return self.job(name)

    def job(self, name: str) -> Job:
        """The job of that name. Raises UnknownName."""
        with self._database.reading() as connection:
            row = connection.execute(select(JobRow.__table__).where(JobRow.name == name)).first()
        if row is None:
            raise UnknownName(f"There is no job named {name!r} in this store.")
        return _job(row)

    def all(self) -> list[Job]:
        """Every job, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(JobRow.__table__).order_by(JobRow.number.desc())).all()
        return [_job(row) for row in rows]

    def plan(self, job: Job, items: Sequence[NewItem]) -> Plan:
        """What `add` would do; nothing is written."""
        with self._database.reading() as connection:
            return _plan(items, _known(connection, job, items))

    def add(self, job: Job, items: Sequence[NewItem]) -> Plan:
        """Add the items that are new, make stale ones pending again, leave the others as they are."""
        with self._database.writing() as connection:
            known = _known(connection, job, items)
            new = [_new_row(job, item) for item in items if item.name not in known]
            if new:
                row = upsert(connection, ItemRow).on_conflict_do_nothing(index_elements=["job", "name"])
                connection.execute(row, new)
            for item in items:
                if item.name in known and known[item.name][0] != item.key:
                    _start_over(connection, job, item)
            return _plan(items, known)

    def claim(self, job: Job, worker: str, limit: int, lease: float = 600.0) -> list[Item]:
        """At most `limit` items to work on, oldest first; no other worker gets them for `lease` seconds."""
        moment = time.time()
        free = or_(ItemRow.state == "pending", (ItemRow.state == "running") & (ItemRow.lease < moment))
        wanted = select(ItemRow.number).where(ItemRow.job == job.number, free).order_by(ItemRow.number).limit(limit)
        if self._database.postgres:
            wanted = wanted.with_for_update(skip_locked=True)
        taken = {"state": "running", "worker": worker, "lease": moment + lease, "attempts": ItemRow.attempts + 1}
        with self._database.writing() as connection:
            numbers = connection.scalars(wanted).all()
            claimed: list[Item] = []
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                connection.execute(update(ItemRow).where(ItemRow.number.in_(some)).values(**taken, updated=moment))
                rows = connection.execute(_items().where(ItemRow.number.in_(some)).order_by(ItemRow.number))
                claimed += [_item(row) for row in rows]
            return claimed

    def renew(self, items: Iterable[Item], lease: float = 600.0) -> None:
        """Hold claimed items for `lease` seconds from now."""
        until = time.time() + lease
        with self._database.writing() as connection:
            for item in items:
                mine = update(ItemRow).where(ItemRow.number == item.number, ItemRow.worker == item.worker)
                connection.execute(mine.where(ItemRow.state == "running").values(lease=until))

    def release(self, job: Job, worker: str | None = None) -> int:
        """Give the running items (of one worker) back to be claimed, as after a crash; returns how many."""
        running = update(ItemRow).where(ItemRow.job == job.number, ItemRow.state == "running")
        if worker is not None:
            running = running.where(ItemRow.worker == worker)
        with self._database.writing() as connection:
            return connection.execute(running.values(state="pending", worker=None, lease=None)).rowcount

    def done(self, item: Item, turn: str | None, outputs: Document) -> bool:
        """Note the result of an item; False if its key has changed or another worker was first."""
        return self._finish(_end(item, "done", turn, outputs, None))

    def fail(self, item: Item, reason: str) -> bool:
        """Note why an item failed; False if its key has changed or another worker was first."""
        return self._finish(_end(item, "failed", None, None, reason))

    def finish(self, done: Iterable[tuple[Item, str | None, Document]], failed: Iterable[tuple[Item, str]]) -> None:
        """Note in one transaction what came of many items: (item, turn, outputs) and (item, reason)."""
        told = [_end(item, "done", turn, outputs, None) for item, turn, outputs in done]
        told += [_end(item, "failed", None, None, why) for item, why in failed]
        if told:
            with self._database.writing() as connection:
                connection.execute(FINISH, told)

    def _finish(self, told: Document) -> bool:
        with self._database.writing() as connection:
            return connection.execute(FINISH, told).rowcount == 1

    def retry_failed(self, job: Job) -> int:
        """Make the failed items pending again; returns how many."""
        failed = update(ItemRow).where(ItemRow.job == job.number, ItemRow.state == "failed")
        with self._database.writing() as connection:
            return connection.execute(failed.values(state="pending", reason=None, worker=None)).rowcount

    def result(self, job: Job, key: str) -> Item | None:
        """A done item of the job with that key: the same work under another name."""
        wanted = _items().where(ItemRow.job == job.number, ItemRow.key == key, ItemRow.state == "done")
        with self._database.reading() as connection:
            row = connection.execute(wanted.order_by(ItemRow.number).limit(1)).first()
        return None if row is None else _item(row)

    def counts(self, job: Job) -> dict[State, int]:
        """How many items are in each state."""
        states = select(ItemRow.state, func.count()).where(ItemRow.job == job.number).group_by(ItemRow.state)
        with self._database.reading() as connection:
            found = {row[0]: row[1] for row in connection.execute(states)}
        return {state: found.get(state, 0) for state in STATES}

    def rows(self, job: Job, state: State | None = None, after: int = 0, limit: int = 500) -> list[Item]:
        """A page of items in the order of adding; `after` is the number of the last one of the page before."""
        wanted = _items().where(ItemRow.job == job.number, ItemRow.number > after)
        if state is not None:
            wanted = wanted.where(ItemRow.state == state)
        with self._database.reading() as connection:
            return [_item(row) for row in connection.execute(wanted.order_by(ItemRow.number).limit(limit))]

    def pending_beside(self, job: Job, names: Container[str]) -> list[Item]:
        """The pending items of a job whose names are not among `names`. Looks at no more of the others than that."""
        pending = select(ItemRow.number, ItemRow.name).where(ItemRow.job == job.number, ItemRow.state == "pending")
        with self._database.reading() as connection:
            numbers = [row[0] for row in connection.execute(pending.order_by(ItemRow.number)) if row[1] not in names]
            found: list[Item] = []
            for start in range(0, len(numbers), BATCH):
                wanted = _items().where(ItemRow.number.in_(numbers[start : start + BATCH])).order_by(ItemRow.number)
                found += [_item(row) for row in connection.execute(wanted)]
            return found


def _job(row: Any) -> Job:
    """A row of JobRow's columns, in their order."""
    return Job(*row)


def _item(row: Any) -> Item:
    """A row of `_items`."""
    return Item(*row)


def _end(item: Item, state: State, turn: str | None, outputs: Document | None, why: str | None) -> Document:
    """What FINISH is given. An item that is open has neither turn, outputs nor reason to be kept."""
    what = {"state": state, "turn": turn, "outputs": outputs, "reason": why, "updated": time.time()}
    return {"of": item.number, "under": item.key, **what}


def _items() -> Any:
    return select(*(ItemRow.__table__.c[name] for name in Item.__dataclass_fields__))


def _known(connection: Connection, job: Job, items: Sequence[NewItem]) -> dict[str, tuple[str, str]]:
    """Name -> (key, state) of those items that the job has already."""
    found: dict[str, tuple[str, str]] = {}
    for start in range(0, len(items), BATCH):
        names = [item.name for item in items[start : start + BATCH]]
        wanted = select(ItemRow.name, ItemRow.key, ItemRow.state).where(ItemRow.job == job.number)
        found.update({row[0]: (row[1], row[2]) for row in connection.execute(wanted.where(ItemRow.name.in_(names)))})
    return found


def _plan(items: Sequence[NewItem], known: dict[str, tuple[str, str]]) -> Plan:
    counts = dict.fromkeys(Plan.__dataclass_fields__, 0)
    for item in items:
        key, state = known.get(item.name, (item.key, "new"))
        counts[state if key == item.key else "stale"] += 1
    return Plan(**counts)


def _new_row(job: Job, item: NewItem) -> Document:
    return {
        "job": job.number,
        "name": item.name,
        "key": item.key,
        "source": item.source,
        "state": "pending",
        "attempts": 0,
        "updated": time.time(),
    }


def _start_over(connection: Connection, job: Job, item: NewItem) -> None:
    stale = update(ItemRow).where(ItemRow.job == job.number, ItemRow.name == item.name)
    fresh = {"worker": None, "lease": None, "turn": None, "outputs": None, "reason": None, "attempts": 0}
    connection.execute(stale.values(key=item.key, source=item.source, state="pending", updated=time.time(), **fresh))
