"""The end of data: erase turns, delete a conversation, prune by age, size and conversation.

Erasing drops a turn's content and leaves its digest, so that the chain still verifies. Media that nothing else refers
to go too, and what was remembered of them. On SQLite freed pages are overwritten and the log is emptied; PostgreSQL
frees them for reuse (VACUUM). Copies that others keep (a checkpointer, Prefect, back-ups, exports) are not reached.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, delete, func, select, text, update

from ..anygpt_model.errors import UnknownName
from . import search
from .database import Database
from .media import MediaShelf
from .rows import BATCH, now
from .tables import Conversation, GenerationRow, ItemRow, MediaRow, PartRow, TimingRow, TurnRow
from .turns import find


@dataclass(frozen=True, slots=True)
class Erased:
    """turns: ids of the turns whose content was dropped. media: hashes of the media that went with them.

    evicted: hashes of generated media whose bytes were dropped to save space while their turns stay. size: bytes of
    content and media left in the store.
    """

    turns: tuple[str, ...]
    media: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    size: int = 0


class Lifecycle:
    """Erasing and pruning in one store."""

    def __init__(self, database: Database, media: MediaShelf) -> None:
        self._database = database
        self._media = media

    def erase(self, ids: Sequence[str]) -> Erased:
        """Drop the content of these turns for good; ids or prefixes. Raises UnknownName before anything is dropped."""
        with self._database.reading() as connection:
            found = [find(connection, id) for id in ids]
        return self._erase([row.number for row in found if not row.erased])

    def delete(self, conversation: str) -> Erased:
        """Drop the content of all turns of a conversation. Raises UnknownName."""
        with self._database.reading() as connection:
            if connection.scalar(select(Conversation.id).where(Conversation.id == conversation)) is None:
                raise UnknownName(f"There is no conversation {conversation!r} in this store.")
            numbers = _oldest_first(connection, None, [conversation])
        return self._erase(numbers)

    def prune(
        self,
        *,
        older_than: float | None = None,
        max_bytes: int | None = None,
        conversations: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> Erased:
        """Drop the turns older than so many seconds; then, oldest first, as many as it takes to keep `max_bytes`.

        conversations: touch only these; with neither age nor size all their turns go. Media that can be made again are
        evicted for size before any turn is dropped. dry_run: say what would go, drop nothing.
        """
        with self._database.reading() as connection:
            if older_than is None and max_bytes is None:
                doomed = _oldest_first(connection, None, conversations or [])
            else:
                horizon = 0.0 if older_than is None else time.time() - older_than
                doomed = _oldest_first(connection, horizon, conversations) if older_than is not None else []
            evicted: list[str] = []
            if max_bytes is not None:
                ledger = _Ledger(connection, doomed)
                if ledger.size > max_bytes:
                    evicted = self._media.evictable(connection)
                    ledger.evict(evicted)
                doomed += ledger.until(max_bytes, _oldest_first(connection, None, conversations))
            turns = tuple(_ids(connection, doomed))
        if dry_run:
            return Erased(turns, evicted=tuple(evicted))
        gone = self._erase(doomed)
        dropped = tuple(self._media.evict(evicted)) if evicted else ()
        return Erased(gone.turns, gone.media, dropped, self.size())

    def size(self) -> int:
        """Bytes of content and present media, as SQL counts them; indexes and overhead left out."""
        with self._database.reading() as connection:
            return _Ledger(connection, []).size

    def _erase(self, numbers: Sequence[int]) -> Erased:
        start = time.time()
        loose: set[str] = set()
        turns: list[str] = []
        for begin in range(0, len(numbers), BATCH):
            with self._database.writing() as connection:
                some = numbers[begin : begin + BATCH]
                turns += _ids(connection, some)
                loose |= drop_content(connection, some)
        if turns:
            with self._database.writing() as connection:
                search.scrub(connection)
        media = self._media.sweep(sorted(loose), start)
        if turns:
            self.wipe()
        return Erased(tuple(turns), tuple(media), size=self.size())

    def wipe(self) -> None:
        """Leave nothing of what was dropped in SQLite's log, or in PostgreSQL's dead rows."""
        with self._database.outside() as connection:
            if self._database.postgres:
                connection.execute(text("VACUUM turns, generations, parts, timings, search, items, media, memo_codes"))
            else:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def drop_content(connection: Connection, numbers: Sequence[int]) -> set[str]:
    """Turn these turns into tombstones; returns the hashes of the media that they referred to."""
    used = Counter(
        connection.scalars(select(PartRow.media).where(PartRow.turn.in_(numbers), PartRow.media.is_not(None))).all()
    )
    for name, times in sorted(used.items()):
        connection.execute(update(MediaRow).where(MediaRow.hash == name).values(refs=MediaRow.refs - times))
    for table in (PartRow, GenerationRow, TimingRow):
        connection.execute(delete(table).where(table.turn.in_(numbers)))
    search.forget(connection, numbers)
    ids = select(TurnRow.id).where(TurnRow.number.in_(numbers))
    connection.execute(update(ItemRow).where(ItemRow.turn.in_(ids)).values(source={}, outputs=None, reason=None))
    blank: dict[str, Any] = {"run": None, "created": "", "at": 0.0, "dropped": 0, "options": {}, "erased": now()}
    connection.execute(update(TurnRow).where(TurnRow.number.in_(numbers)).values(**blank))
    return {name for name in used if name is not None}


def _oldest_first(connection: Connection, before: float | None, conversations: Iterable[str] | None) -> list[int]:
    wanted = select(TurnRow.number).where(TurnRow.erased.is_(None)).order_by(TurnRow.at, TurnRow.number)
    if before is not None:
        wanted = wanted.where(TurnRow.at < before)
    if conversations is not None:
        wanted = wanted.where(TurnRow.conversation.in_(list(conversations)))
    return list(connection.scalars(wanted))


def _ids(connection: Connection, numbers: Sequence[int]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        found += connection.scalars(select(TurnRow.id).where(TurnRow.number.in_(some)).order_by(TurnRow.number))
    return found


def _length(column: Any) -> ColumnElement[int]:
    return func.coalesce(func.length(column, type_=Integer), 0)


class _Ledger:
    """What each turn and each medium weighs, and what is left once turns are crossed out."""

    def __init__(self, connection: Connection, doomed: Sequence[int]) -> None:
        arrays = (GenerationRow.prompt, GenerationRow.ids, GenerationRow.logprobs, GenerationRow.margins)
        self._turns: Counter[int] = Counter()
        for turn, *weights in connection.execute(select(GenerationRow.turn, *map(_length, arrays))):
            self._turns[turn] = sum(weights)
        inside = _length(PartRow.text) + _length(PartRow.span)
        for turn, weight in connection.execute(select(PartRow.turn, func.sum(inside)).group_by(PartRow.turn)):
            self._turns[turn] += int(weight)
        media = select(MediaRow.hash, MediaRow.size, MediaRow.refs).where(MediaRow.present)
        rows = connection.execute(media).all()
        self._media = {row[0]: row[1] for row in rows}
        self._refs = Counter({row[0]: row[2] for row in rows})
        self._uses: dict[int, list[str]] = {}
        for turn, name in connection.execute(select(PartRow.turn, PartRow.media).where(PartRow.media.is_not(None))):
            self._uses.setdefault(turn, []).append(str(name))
        self.size = sum(self._turns.values()) + sum(self._media.values())
        self._crossed: set[int] = set()
        for number in doomed:
            self.cross_out(number)

    def cross_out(self, number: int) -> None:
        """Take a turn off, and each medium to which it was the last reference."""
        self._crossed.add(number)
        self.size -= self._turns[number]
        for name in self._uses.get(number, []):
            self._refs[name] -= 1
            if self._refs[name] == 0:
                self.size -= self._media.pop(name, 0)

    def evict(self, names: Iterable[str]) -> None:
        """Take the bytes of these media off."""
        self.size -= sum(self._media.pop(name, 0) for name in names)

    def until(self, most: int, numbers: Iterable[int]) -> list[int]:
        """Cross out turns in this order until at most `most` bytes are left; returns those."""
        taken: list[int] = []
        for number in numbers:
            if self.size <= most:
                break
            if number not in self._crossed:
                self.cross_out(number)
                taken.append(number)
        return taken
