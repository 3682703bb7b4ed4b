"""Many turns in one transaction: what a batch records, each statement sent once for all of them.

The rows are those of turns.py, one by one. Knows no conversation that goes on: no turn here follows another one of the
same call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from ..anygpt_model.values import Turn
from . import search
from .database import Conflict, Database
from .documents import chain, digest
from .rows import BATCH, Link, dense, insert_contents, insert_turns, load_turns, seconds_of
from .tables import TurnRow
from .turns import count_references, parent_hash, texts_of, touch_conversations

Given = tuple[Turn, Turn, str]
"""A turn, the same with arrays in place of tuples, and the digest of its content."""


def record_together(database: Database, turns: Sequence[Turn]) -> list[Turn]:
    """Write all of `turns`, or none, and return them with their hashes; a run already recorded returns its turn.

    Raises UnknownName for a parent that is not in the store, StoreError if a medium was not put or an id is taken.
    """
    given = [(turn, swift, digest(swift)) for turn, swift in ((turn, dense(turn)) for turn in turns)]
    return _recorded(database, given)


def _recorded(database: Database, given: Sequence[Given]) -> list[Turn]:
    try:
        with database.writing() as connection:
            return _append(connection, given)
    except Conflict:  # nearly always all are new: that is not asked for beforehand
        known = recorded_runs(database, [turn.run for turn, _, _ in given])
        if not known:
            raise
    made = _recorded(database, [one for one in given if one[0].run not in known])
    known.update({turn.run: turn for turn in made})
    return [known[turn.run] for turn, _, _ in given]


def recorded_runs(database: Database, runs: Iterable[str]) -> dict[str | None, Turn]:
    """Run -> its turn, of those that are recorded."""
    with database.reading() as connection:
        return _by_run(connection, list(runs))


def _append(connection: Connection, given: Sequence[Given]) -> list[Turn]:
    links = [
        Link(content, chain(content, parent_hash(connection, turn)), seconds_of(turn.created))
        for turn, _, content in given
    ]
    turns = [swift for _, swift, _ in given]
    touch_conversations(connection, [(turn.conversation, link.at) for turn, link in zip(turns, links, strict=True)])
    numbers = insert_turns(connection, turns, links)
    for turn in turns:
        count_references(connection, turn)
    insert_contents(connection, numbers, turns)
    search.index(connection, [(number, texts_of(turn)) for number, turn in zip(numbers, turns, strict=True)])
    return [replace(turn, hash=link.hash) for (turn, _, _), link in zip(given, links, strict=True)]


def _by_run(connection: Connection, runs: Sequence[str | None]) -> dict[str | None, Turn]:
    named = [run for run in runs if run is not None]
    numbers: list[int] = []
    for start in range(0, len(named), BATCH):
        wanted = select(TurnRow.number).where(TurnRow.run.in_(named[start : start + BATCH]))
        numbers += connection.scalars(wanted).all()
    return {turn.run: turn for turn in load_turns(connection, numbers)}
