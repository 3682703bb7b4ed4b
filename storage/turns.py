"""The chain of turns: append one, fetch one, walk back from one. Append-only; erasing is elsewhere (lifecycle.py).

A turn's hash covers the digest of its content and its parent's hash. Knows no blob: media are counted, not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, Row, bindparam, case, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from ..anygpt_model.errors import StoreError, UnknownName
from ..anygpt_model.values import Turn
from . import search
from .database import Conflict, Database
from .documents import chain, digest
from .rows import Link, dense, insert_content, insert_turn, load_turns, seconds_of
from .tables import Conversation, MediaRow, TurnRow

SHORTEST = 8
"""Characters of an id that serve as a prefix."""


def _touching(insert: sqlite.Insert | postgresql.Insert) -> sqlite.Insert | postgresql.Insert:
    """Make a conversation or move its newest moment on."""
    given, kept = insert.excluded.updated, Conversation.updated
    return insert.on_conflict_do_update(
        index_elements=["id"], set_={"updated": case((given > kept, given), else_=kept)}
    )


# Made once, as every turn needs them (rows.py says why).
BY_RUN = select(TurnRow.number).where(TurnRow.run == bindparam("run"))
HASH_OF = select(TurnRow.hash).where(TurnRow.id == bindparam("id"))
ONE_MORE = update(MediaRow).where(MediaRow.hash == bindparam("name")).values(refs=MediaRow.refs + 1)
TOUCH = {
    "sqlite": _touching(sqlite.insert(Conversation)),
    "postgresql": _touching(postgresql.insert(Conversation)),
}


class TurnLog:
    """The turns of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, turn: Turn) -> Turn:
        """Write one turn in one transaction and return it with its hash; a run already recorded returns its turn.

        Raises UnknownName if the parent is not in the store, StoreError if a medium was not put, or the id is taken.
        """
        at, swift = _moment(turn), dense(turn)
        content = digest(swift)
        try:
            with self._database.writing() as connection:
                return replace(turn, hash=append(connection, swift, content, at))
        except Conflict as conflict:  # nearly always a first writing: that is not asked for beforehand
            with self._database.reading() as connection:
                before = self.by_run(connection, turn.run)
            if before is None:
                raise StoreError(f"Turn {turn.id} can't be recorded: its id is taken by another run.") from conflict
            return before

    def by_run(self, connection: Connection, run: str) -> Turn | None:
        """The turn that a run recorded."""
        number = connection.scalar(BY_RUN, {"run": run})
        return None if number is None else load_turns(connection, [number])[0]

    def turn(self, id: str) -> Turn:
        """One turn, by its id or a prefix of 8 characters or more. Raises UnknownName."""
        with self._database.reading() as connection:
            row = find(connection, id)
            if row.erased:
                raise UnknownName(f"Turn {row.id} was erased on {row.erased[:10]}; only its digest is kept.")
            return load_turns(connection, [row.number])[0]

    def lineage(self, id: str) -> Sequence[Turn]:
        """The turn and its ancestors, oldest first; erased ones are left out."""
        with self._database.reading() as connection:
            return load_turns(connection, ancestors(connection, find(connection, id).number))

    def tip(self, conversation: str) -> Turn | None:
        """The newest turn of a conversation that is not erased, or None."""
        newest = (
            select(TurnRow.number)
            .where(TurnRow.conversation == conversation, TurnRow.erased.is_(None))
            .order_by(TurnRow.number.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            number = connection.scalar(newest)
            return None if number is None else load_turns(connection, [number])[0]


def append(connection: Connection, turn: Turn, content: str, at: float) -> str:
    """Write `turn`, whose content has the digest `content`, behind its parent; returns its hash."""
    link = Link(content, chain(content, parent_hash(connection, turn)), at)
    touch_conversations(connection, [(turn.conversation, at)])
    number = insert_turn(connection, turn, link)
    count_references(connection, turn)
    insert_content(connection, number, turn)
    search.index(connection, [(number, texts_of(turn))])
    return link.hash


def parent_hash(connection: Connection, turn: Turn) -> str | None:
    """The hash of the turn before. Raises UnknownName."""
    if turn.parent is None:
        return None
    found = connection.scalar(HASH_OF, {"id": turn.parent})
    if found is None:
        raise UnknownName(f"Turn {turn.id} follows turn {turn.parent}, which is not in this store; record that first.")
    return found


def touch_conversations(connection: Connection, moments: Sequence[tuple[str, float]]) -> None:
    """Make each conversation that is new; note the time of its newest turn."""
    if moments:
        rows = [{"id": id, "created": at, "updated": at} for id, at in moments]
        connection.execute(TOUCH[connection.dialect.name], rows)


def texts_of(turn: Turn) -> list[str]:
    """The texts of a turn's parts, that it may be found by."""
    return [part.text for part in (*turn.request, *turn.reply) if part.text]


def count_references(connection: Connection, turn: Turn) -> None:
    """One more reference to every medium of the turn. Raises StoreError for one that is not kept."""
    hashes = [part.media.hash for part in (*turn.request, *turn.reply) if part.media]
    for name in sorted(hashes):
        found = connection.execute(ONE_MORE, {"name": name})
        if not found.rowcount:
            raise StoreError(f"Turn {turn.id} refers to medium {name}, which is not in this store; put it first.")


def find(connection: Connection, id: str) -> Row[int, str, str | None]:
    """The row of the chain for an id or the unique beginning of one. Raises UnknownName."""
    columns = select(TurnRow.number, TurnRow.id, TurnRow.erased)
    exact = connection.execute(columns.where(TurnRow.id == id)).first()
    if exact is not None:
        return exact
    begun = columns.where(TurnRow.id >= id, TurnRow.id < id + "\uffff").limit(2)
    rows = connection.execute(begun).all() if len(id) >= SHORTEST else []
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise UnknownName(f"{id!r} begins the ids of more than one turn; give more of it.")
    raise UnknownName(
        f"There is no turn {id!r} in this store; give an id or its first {SHORTEST} characters, "
        "as `anyloom traces list` shows them."
    )


def ancestors(connection: Connection, number: int) -> list[int]:
    """Numbers of the turn and of those before it, oldest first."""
    statement = text(
        "WITH RECURSIVE line (number, parent) AS ("
        " SELECT number, parent FROM turns WHERE number = :number"
        " UNION ALL SELECT turns.number, turns.parent FROM turns JOIN line ON turns.id = line.parent)"
        " SELECT number FROM line ORDER BY number"
    )
    return [int(row[0]) for row in connection.execute(statement, {"number": number})]


def _moment(turn: Turn) -> float:
    try:
        return seconds_of(turn.created)
    except ValueError as error:
        raise StoreError(f"Turn {turn.id} says it was created {turn.created!r}; an ISO 8601 time is taken.") from error
