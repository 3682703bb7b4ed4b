"""A conversion before it runs: its job, its rows, what is to be done and what that will cost. Knows no Prefect.

The lock says that one process at a time leads a job, so whatever the ledger calls running is left from a crash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..anygpt_model.checkpoints import fingerprints, model_folder
from ..anygpt_model.errors import InputError, SettingsError
from ..graphs.settings import settings
from ..nodes.options import bounds
from ..nodes.state import Context
from ..storage.jobs import Item, Job, NewItem, Plan
from .ledger import Asked, row
from .sources import Source

if TYPE_CHECKING:
    from ..storage.store import Store

PAGE = 1000
PAUSE = 60.0
"""Seconds without a finished item that are taken for the time between two runs."""
USUAL_TOKENS = {"text": 30, "image": 40, "speech": 160, "music": 510}
"""Ids of a reply of each modality, for the estimate of a job that has no finished item yet."""


@dataclass(frozen=True, slots=True)
class Order:
    """A conversion as it was ordered; every field is a string or a number, so that it travels to any worker."""

    source: str
    out: str
    asked: Asked
    model: str
    device: str | None
    database: str
    columns: Mapping[str, str] = field(default_factory=dict)
    item_timeout: float | None = None
    verb: str = "convert"

    @property
    def job(self) -> str:
        """The job's name: the same destination goes on with the same job."""
        return f"{self.verb} {self.out}"

    def document(self) -> dict[str, Any]:
        """The order as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Order:
        """The order that `document` wrote."""
        return cls(**{**document, "asked": Asked(**document["asked"])})


def order(
    source: str,
    out: str,
    asked: Asked,
    model: str | None = None,
    columns: Mapping[str, str] | None = None,
    item_timeout: float | None = None,
    verb: str = "convert",
) -> Order:
    """A checked order. Raises UnknownName for a modality or model, SettingsError for what can't be opened."""
    if item_timeout is not None and not item_timeout > 0:
        raise InputError(f"item_timeout is {item_timeout:g}; it takes more than 0 seconds.")
    bounds(Context(to=asked.to, max_seconds=asked.max_seconds, max_tokens=asked.max_tokens))
    chosen = settings()
    name = model or chosen.model
    model_folder(name)
    database = chosen.database
    if database is None:
        raise SettingsError("No database is set; set ANYLOOM_DATABASE_URL or ANYLOOM_HOME.")
    return Order(source, _absolute(out), asked, name, chosen.device, database, dict(columns or {}), item_timeout, verb)


def rows(order: Order) -> list[NewItem]:
    """The ledger's rows of the source, in its order; the model is not opened for this."""
    source = Source(order.source, order.columns)
    model = fingerprints(model_folder(order.model))
    return [row(item, source, order.asked, model) for item in source.inputs()]


def estimate(store: Store, order: Order, items: Sequence[NewItem], to_do: int) -> dict[str, float | None]:
    """Tokens and seconds that `to_do` of `items` will take, from finished items of the same job where there are any.

    Equal inputs are converted once, so they count once.
    """
    finished = _finished(store, order)
    tokens = [item.outputs["tokens"] for item in finished if item.outputs]
    each = sum(tokens) / len(tokens) if tokens else USUAL_TOKENS.get(order.asked.to, 100)
    different = len({item.key for item in items}) / max(len(items), 1)
    pace = _pace([item.updated for item in finished])
    return {
        "tokens": round(each * to_do * different),
        "seconds": None if pace is None else round(pace * to_do, 1),
    }


def _pace(moments: Sequence[float]) -> float | None:
    """Seconds between two items finished, pauses between runs left out; None where fewer than two are."""
    ordered = sorted(moments)
    gaps = [later - earlier for earlier, later in pairwise(ordered) if later - earlier < PAUSE]
    return sum(gaps) / len(gaps) if gaps else None


def all_items(store: Store, job: Job) -> Iterator[Item]:
    """Every row of a job, page by page."""
    after = 0
    while page := store.jobs.rows(job, after=after, limit=PAGE):
        yield from page
        after = page[-1].number


def known(store: Store, order: Order) -> Job | None:
    """The order's job, if there is one already."""
    return next((job for job in store.jobs.all() if job.name == order.job), None)


def wanted(store: Store, job: Job | None, items: Sequence[NewItem], only_stale: bool) -> list[NewItem]:
    """The rows that a run is about: all, or those that the job knows already."""
    if not only_stale:
        return list(items)
    names = set() if job is None else {item.name for item in all_items(store, job)}
    return [item for item in items if item.name in names]


def planned(store: Store, order: Order, items: Sequence[NewItem]) -> Plan:
    """What a run would find to do; nothing is written. A job that doesn't exist yet has everything to do."""
    job = known(store, order)
    return Plan(new=len(items)) if job is None else store.jobs.plan(job, items)


@contextmanager
def leading(job: str) -> Iterator[None]:
    """Lead `job` alone, for the length of the block. Raises SettingsError if another process here leads it."""
    folder = settings().home.expanduser() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / f"{hashlib.sha256(job.encode()).hexdigest()[:16]}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"Another process runs the job {job!r} now; wait for it or stop it.") from None
        yield
    finally:
        os.close(held)


def _finished(store: Store, order: Order, most: int = 200) -> list[Item]:
    job = known(store, order)
    return [] if job is None else store.jobs.rows(job, "done", limit=most)


def _absolute(out: str) -> str:
    return out if "://" in out else str(Path(out).expanduser().absolute())
