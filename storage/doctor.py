"""Finds what crashes, full disks and bit rot left behind, and mends what can be mended.

A kill between the blob and the row leaves an orphan or a temporary file: both go, once they are older than `grace`
seconds (somebody may be writing right now). A blob that is missing or does not match its hash is made again from ids if
it was generated, and named if it was not. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, func, select, text, update

from ..anygpt_model.errors import StoreError
from . import search
from .chain import verify_chain
from .database import Database
from .tables import ItemRow, MediaRow, PartRow, TurnRow, VoiceRow

if TYPE_CHECKING:
    from .store import Store

Kind = Literal[
    "damaged database",
    "temporary file",
    "orphan blob",
    "orphan medium",
    "missing blob",
    "broken blob",
    "wrong count",
    "broken chain",
    "missing words",
    "lapsed item",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was not as it should be. detail: one sentence. mended: it is now."""

    kind: Kind
    subject: str
    detail: str
    mended: bool


@dataclass(frozen=True, slots=True)
class Report:
    """turns, media: how many were looked at. findings: what was wrong with them."""

    turns: int
    media: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Nothing was found."""
        return not self.findings

    @property
    def healthy(self) -> bool:
        """Nothing is left to mend."""
        return all(finding.mended for finding in self.findings)


def examine(store: Store, *, mend: bool = True, grace: float = 3600.0, deep: bool = True) -> Report:
    """Look at everything; with `mend` also put right what can be. grace: seconds. deep: read and hash every blob."""
    damage = list(_damage(store.database))
    if damage:
        return Report(0, 0, tuple(damage))
    chain = verify_chain(store.database)
    findings = [Finding("broken chain", one.turn, f"{one}.", False) for one in chain.breaks]
    findings += _counts(store, mend)
    findings += _temporary_files(store, mend, grace)
    findings += _orphan_media(store, mend, grace)
    findings += _orphan_blobs(store, mend, grace)
    findings += _lost_blobs(store, mend, deep)
    findings += _words(store, mend)
    findings += _lapsed(store, mend)
    with store.database.reading() as connection:
        media = connection.scalar(select(func.count()).select_from(MediaRow)) or 0
    return Report(chain.checked, media, tuple(findings))


def _damage(database: Database) -> Iterator[Finding]:
    """SQLite's own check of its pages."""
    if database.postgres:
        return
    advice = "export what can be read, and import it into a new store."
    try:
        with database.reading() as connection:
            said = [str(row[0]) for row in connection.execute(text("PRAGMA quick_check"))]
    except StoreError as error:
        said = [str(error)]
    if said != ["ok"]:
        yield Finding("damaged database", database.name, f"SQLite says {said[0]}; {advice}", False)


def _temporary_files(store: Store, mend: bool, grace: float) -> Iterator[Finding]:
    for leftover in list(store.files.leftovers()):
        if leftover.writer_alive and leftover.age < grace:
            continue
        if mend:
            store.files.remove_leftover(leftover)
        detail = f"It was left {leftover.age:.0f} seconds ago by a writer that did not finish."
        yield Finding("temporary file", leftover.path, detail, mend)


def _counts(store: Store, mend: bool) -> Iterator[Finding]:
    parts = select(func.count()).where(PartRow.media == MediaRow.hash).scalar_subquery()
    voices = select(func.count()).where(VoiceRow.media == MediaRow.hash).scalar_subquery()
    with store.database.writing() as connection:
        wrong = select(MediaRow.hash, MediaRow.refs, parts + voices).where(MediaRow.refs != parts + voices)
        for name, stored, counted in connection.execute(wrong).all():
            if mend:
                connection.execute(update(MediaRow).where(MediaRow.hash == name).values(refs=counted))
            yield Finding("wrong count", str(name), f"It counted {stored} references, there are {counted}.", mend)


def _orphan_media(store: Store, mend: bool, grace: float) -> Iterator[Finding]:
    """Media that were put for a turn that was never recorded."""
    horizon = time.time() - grace
    with store.database.reading() as connection:
        loose = select(MediaRow.hash).where(MediaRow.refs == 0, MediaRow.touched <= horizon).order_by(MediaRow.hash)
        names = connection.scalars(loose).all()
    for name in names:
        mended = mend and bool(store.media.sweep([name], horizon))
        yield Finding("orphan medium", name, "No turn and no voice refers to it.", mended)


def _orphan_blobs(store: Store, mend: bool, grace: float) -> Iterator[Finding]:
    """Files that were written, but whose row was not."""
    for name, age in list(store.files.names()):
        if age < grace:
            continue
        with store.database.writing() as connection:
            row = connection.execute(select(MediaRow.present).where(MediaRow.hash == name)).first()
            if row is not None and row.present:
                continue
            if mend:
                store.files.remove(name)
        yield Finding("orphan blob", name, "It lies in the blob folder and the database does not know it.", mend)


def _lost_blobs(store: Store, mend: bool, deep: bool) -> Iterator[Finding]:
    with store.database.reading() as connection:
        names = connection.scalars(select(MediaRow.hash).where(MediaRow.present).order_by(MediaRow.hash)).all()
    for name in names:
        missing = not store.files.has(name)
        if missing or (deep and not _reads(store, name)):
            yield _lose(store, name, missing, mend)


def _reads(store: Store, name: str) -> bool:
    try:
        store.files.read(name)
    except StoreError:
        return False
    return True


def _lose(store: Store, name: str, missing: bool, mend: bool) -> Finding:
    """Mark a medium as having no bytes; what is there in its place is moved aside."""
    with store.database.writing() as connection:
        again = name in store.media.evictable(connection)
        users = _users(connection, name)
        if mend:
            if not missing:
                store.files.set_aside(name)
            connection.execute(update(MediaRow).where(MediaRow.hash == name).values(present=False))
    what = "Its bytes are missing" if missing else "Its bytes do not match its hash and were set aside"
    remedy = "replaying makes them again" if again else "put the original file again"
    detail = f"{what}; {remedy}; used by {users}."
    return Finding("missing blob" if missing else "broken blob", name, detail, mend and again)


def _users(connection: Connection, name: str) -> str:
    turns = select(TurnRow.id).join(PartRow, PartRow.turn == TurnRow.number).where(PartRow.media == name)
    found = [f"turn {id}" for id in connection.scalars(turns.distinct().limit(3))]
    found += [f"voice {voice}" for voice in connection.scalars(select(VoiceRow.name).where(VoiceRow.media == name))]
    return ", ".join(found) or "nothing"


def _words(store: Store, mend: bool) -> Iterator[Finding]:
    """Turns whose texts are not in the search index."""
    with store.database.writing() as connection:
        column = "turn" if store.database.postgres else "rowid"
        indexed = set(connection.scalars(text(f"SELECT {column} FROM search")))
        texts = connection.execute(select(PartRow.turn, PartRow.text).where(PartRow.text.is_not(None)))
        wanted = {turn for turn, passage in texts if search.words(passage or "")}
        if indexed == wanted:
            return
        if mend:
            search.reindex(connection)
        amount = len(indexed ^ wanted)
    yield Finding("missing words", "search", f"The search index is wrong for {amount} turns.", mend)


def _lapsed(store: Store, mend: bool) -> Iterator[Finding]:
    """Items whose worker has been silent for longer than its claim held."""
    lapsed = (ItemRow.state == "running", ItemRow.lease < time.time())
    with store.database.writing() as connection:
        amount = connection.scalar(select(func.count()).where(*lapsed)) or 0
        if not amount:
            return
        if mend:
            connection.execute(update(ItemRow).where(*lapsed).values(state="pending", worker=None, lease=None))
    yield Finding("lapsed item", "items", f"{amount} items were claimed by workers that are gone.", mend)
