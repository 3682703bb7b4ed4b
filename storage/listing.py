"""Pages of conversations and turns as summaries, newest first, and the search over their words.

Knows no id array: a summary is read without loading what the model read and wrote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, tuple_

from ..anygpt_model.errors import UnknownName
from ..anygpt_model.values import Modality
from . import search
from .database import Database
from .rows import BATCH
from .tables import Conversation, GenerationRow, PartRow, TurnRow
from .turns import find

EXCERPT = 120
"""Characters of a text that a summary shows."""
END = 2**62
"""Larger than any row number."""


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """A turn in a list. asked, answered: the beginnings of the texts. number: grows with each turn of the store.

    tokens: generated ids. An erased turn has its id, conversation and parent alone, and `erased` says when.
    """

    number: int
    id: str
    conversation: str
    parent: str | None
    created: str
    asked: str
    answered: str
    modalities_in: tuple[Modality, ...]
    modalities_out: tuple[Modality, ...]
    prompt_tokens: int
    tokens: int
    model: str
    finish: str
    seed: int | None
    erased: str | None


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A conversation in a list. turns: how many are not erased. created, updated: seconds since 1970.

    opening: the beginning of its first text. tip: the id of its newest turn, None if all are erased.
    """

    id: str
    turns: int
    created: float
    updated: float
    opening: str
    tip: str | None


class Listing:
    """The lists of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def conversations(self, limit: int = 50, before: str | None = None) -> list[ConversationSummary]:
        """A page of conversations, the last used first; `before` is the id of the last one of the page before."""
        page = select(Conversation.__table__).order_by(Conversation.updated.desc(), Conversation.id.desc()).limit(limit)
        with self._database.reading() as connection:
            if before is not None:
                page = page.where(tuple_(Conversation.updated, Conversation.id) < _place(connection, before))
            return _conversations(connection, connection.execute(page).all())

    def turns(self, conversation: str | None = None, limit: int = 50, before: int | None = None) -> list[TurnSummary]:
        """A page of turns, newest first; `before` is the number of the last one of the page before."""
        page = select(TurnRow.number).where(TurnRow.number < (END if before is None else before))
        if conversation is not None:
            page = page.where(TurnRow.conversation == conversation)
        with self._database.reading() as connection:
            return summaries(connection, connection.scalars(page.order_by(TurnRow.number.desc()).limit(limit)).all())

    def children(self, id: str) -> list[TurnSummary]:
        """The turns that follow a turn, oldest first: more than one where it was forked. Raises UnknownName."""
        with self._database.reading() as connection:
            parent = find(connection, id).id
            page = select(TurnRow.number).where(TurnRow.parent == parent).order_by(TurnRow.number)
            return summaries(connection, connection.scalars(page).all())

    def search(
        self, words: str, conversation: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[TurnSummary]:
        """A page of the turns whose texts hold all of `words`, each as the beginning of a word, newest first."""
        with self._database.reading() as connection:
            found = search.matching(connection, words, conversation, limit, END if before is None else before)
            return summaries(connection, found)


def summaries(connection: Connection, numbers: Sequence[int]) -> list[TurnSummary]:
    """The summaries of the turns with these numbers, in this order."""
    found: dict[int, TurnSummary] = {}
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        rows = connection.execute(
            select(
                *TurnRow.__table__.c["number", "id", "conversation", "parent", "created", "erased"],
                *GenerationRow.__table__.c["prompt_tokens", "tokens", "model", "finish", "seed"],
            )
            .outerjoin(GenerationRow, GenerationRow.turn == TurnRow.number)
            .where(TurnRow.number.in_(some))
        )
        parts = _parts(connection, some)
        found.update({row.number: _summary(row, parts[row.number]) for row in rows})
    return [found[number] for number in numbers if number in found]


def _parts(connection: Connection, numbers: Sequence[int]) -> dict[int, list[Row[Any]]]:
    columns = PartRow.__table__.c["turn", "side", "modality", "text"]
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(select(*columns).where(PartRow.turn.in_(numbers)).order_by(PartRow.position)):
        found[row.turn].append(row)
    return found


def _summary(row: Row[Any], parts: list[Row[Any]]) -> TurnSummary:
    asked = [part for part in parts if part.side == "request"]
    answered = [part for part in parts if part.side == "reply"]
    return TurnSummary(
        number=row.number,
        id=row.id,
        conversation=row.conversation,
        parent=row.parent,
        created=row.created,
        asked=_excerpt(asked),
        answered=_excerpt(answered),
        modalities_in=_modalities(asked),
        modalities_out=_modalities(answered),
        prompt_tokens=row.prompt_tokens or 0,
        tokens=row.tokens or 0,
        model=row.model or "",
        finish=row.finish or "",
        seed=row.seed,
        erased=row.erased,
    )


def _excerpt(parts: list[Row[Any]]) -> str:
    return next((part.text[:EXCERPT] for part in parts if part.text), "")


def _modalities(parts: list[Row[Any]]) -> tuple[Modality, ...]:
    return tuple(dict.fromkeys(Modality(part.modality) for part in parts))


def _place(connection: Connection, id: str) -> tuple[float, str]:
    updated = connection.scalar(select(Conversation.updated).where(Conversation.id == id))
    if updated is None:
        raise UnknownName(
            f"There is no conversation {id!r} in this store; `anyloom traces list` shows those there are."
        )
    return updated, id


def _conversations(connection: Connection, rows: Sequence[Row[Any]]) -> list[ConversationSummary]:
    first, newest, count = func.min(TurnRow.number), func.max(TurnRow.number), func.count()
    kept = select(TurnRow.conversation, first, newest, count).where(
        TurnRow.conversation.in_([row.id for row in rows]), TurnRow.erased.is_(None)
    )
    ends = {row[0]: row[1:] for row in connection.execute(kept.group_by(TurnRow.conversation))}
    wanted = sorted({number for one, other, _ in ends.values() for number in (one, other)})
    found = {summary.number: summary for summary in summaries(connection, wanted)}
    return [
        ConversationSummary(
            id=row.id,
            turns=ends[row.id][2] if row.id in ends else 0,
            created=row.created,
            updated=row.updated,
            opening=found[ends[row.id][0]].asked if row.id in ends else "",
            tip=found[ends[row.id][1]].id if row.id in ends else None,
        )
        for row in rows
    ]
