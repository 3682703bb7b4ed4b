"""Derives every digest and every hash of the chain again, and says which stored one differs.

Finds what was altered behind the store's back. An erased turn still links: its digest stands in for its content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from .database import Database
from .documents import chain, digest
from .rows import load_numbered
from .tables import TurnRow

PAGE = 200
"""Turns that are in memory at a time."""
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class Break:
    """One place where the chain does not hold. stored, derived: the two hashes, or what was wrong with the content."""

    turn: str
    what: Literal["content", "hash", "parent"]
    stored: str
    derived: str

    def __str__(self) -> str:
        return f"turn {self.turn}: its {self.what} is stored as {self.stored}, derived as {self.derived}"


@dataclass(frozen=True, slots=True)
class ChainReport:
    """checked: turns in all. erased: how many of them are tombstones. breaks: where the chain does not hold."""

    checked: int
    erased: int
    breaks: tuple[Break, ...]

    @property
    def holds(self) -> bool:
        """Whether every hash is what it should be."""
        return not self.breaks


def verify_chain(database: Database) -> ChainReport:
    """Check every turn of the store, oldest first."""
    checked = erased = last = 0
    breaks: list[Break] = []
    hashes: dict[str, str] = {}
    while rows := _page(database, last):
        with database.reading() as connection:
            derived = _digests(connection, [row.number for row in rows if row.erased is None])
        for row in rows:
            breaks += _check(row, derived, hashes)
        checked += len(rows)
        erased += sum(row.erased is not None for row in rows)
        last = rows[-1].number
    return ChainReport(checked, erased, tuple(breaks))


def _page(database: Database, after: int) -> list[Row[Any]]:
    columns = TurnRow.__table__.c["number", "id", "parent", "digest", "hash", "erased"]
    with database.reading() as connection:
        page = select(*columns).where(TurnRow.number > after).order_by(TurnRow.number).limit(PAGE)
        return list(connection.execute(page))


def _digests(connection: Connection, numbers: list[int]) -> dict[int, str]:
    """The digest of each turn's content as it is stored, or why it can't be read."""
    try:
        return {number: digest(turn) for number, turn in load_numbered(connection, numbers).items()}
    except UNREADABLE as error:
        if len(numbers) == 1:
            return {numbers[0]: f"unreadable ({error})"}
        return {number: said for one in numbers for number, said in _digests(connection, [one]).items()}


def _check(row: Row[Any], derived: dict[int, str], hashes: dict[str, str]) -> list[Break]:
    """`hashes` are the derived ones of all turns so far: one altered hash breaks one link, not all after it."""
    found: list[Break] = []
    content = derived.get(row.number, "missing")
    if row.erased is None and content != row.digest:
        found.append(Break(row.id, "content", row.digest, content))
    if row.parent is not None and row.parent not in hashes:
        found.append(Break(row.id, "parent", row.parent, "missing"))
    hashes[row.id] = chain(row.digest, hashes.get(row.parent) if row.parent else None)
    if hashes[row.id] != row.hash:
        found.append(Break(row.id, "hash", row.hash, hashes[row.id]))
    return found
