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
from .database import Database
from .documents import chain, digest
from .rows import BATCH, dense, insert_contents, insert_turns, load_turns, seconds_of
from .tables import TurnRow
from .turns import count_references, parent_hash, texts_of, touch_conversations


def record_together(database: Database, turns: Sequence[Turn]) -> list[Turn]:
    """Write all of `turns`, or none, and return them with their hashes; a run already recorded returns its turn.

    Raises UnknownName for a parent that is not in the store, StoreError if a medium was not put or an id is taken.
    """
    prepared = [(turn, dense(turn)) for turn in turns]
    digests = [digest(swift) for _, swift in prepared]
    with database.writing() as connection:
        known = _by_run(connection, [turn.run for turn in turns])
        new = [
            (turn, replace(swift, hash=chain(content, parent_hash(connection, turn))), content)
            for (turn, swift), content in zip(prepared, digests, strict=True)
            if turn.run not in known
        ]
        _append(connection, [swift for _, swift, _ in new], [content for _, _, content in new])
    made = {turn.run: replace(turn, hash=swift.hash) for turn, swift, _ in new}
    return [known.get(turn.run) or made[turn.run] for turn in turns]


def recorded_runs(database: Database, runs: Iterable[str]) -> dict[str | None, Turn]:
    """Run -> its turn, of those that are recorded."""
    with database.reading() as connection:
        return _by_run(connection, list(runs))


def _append(connection: Connection, turns: Sequence[Turn], digests: Sequence[str]) -> None:
    moments = [seconds_of(turn.created) for turn in turns]
    touch_conversations(connection, [(turn.conversation, at) for turn, at in zip(turns, moments, strict=True)])
    numbers = insert_turns(connection, turns, digests, moments)
    for turn in turns:
        count_references(connection, turn)
    insert_contents(connection, numbers, turns)
    search.index(connection, [(number, texts_of(turn)) for number, turn in zip(numbers, turns, strict=True)])


def _by_run(connection: Connection, runs: Sequence[str | None]) -> dict[str | None, Turn]:
    named = [run for run in runs if run is not None]
    numbers: list[int] = []
    for start in range(0, len(named), BATCH):
        wanted = select(TurnRow.number).where(TurnRow.run.in_(named[start : start + BATCH]))
        numbers += connection.scalars(wanted).all()
    return {turn.run: turn for turn in load_turns(connection, numbers)}
