"""Turn -> rows and rows -> Turn. Knows no transaction: the caller hands over a connection.

What comes back equals what was given, value for value: the digest of the chain is re-derived from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Row, insert, select

from ..anygpt_model.values import Finish, Generation, Modality, Part, Span, Turn
from .columns import Spelled, canonical, float_array, integer_array
from .documents import bounds_document, media_document, read_bounds, read_media, read_sampling, sampling_document
from .tables import GenerationRow, PartRow, TimingRow, TurnRow

BATCH = 500
"""Turns that are loaded with one query; SQLite takes a limited number of parameters."""
SIDES = ("request", "reply")
# Statements that every turn needs are made once: SQLAlchemy then finds their compiled form without looking at them.
NEW_TURN, NEW_GENERATION = insert(TurnRow), insert(GenerationRow)
NEW_PART, NEW_TIMING = insert(PartRow), insert(TimingRow)


class Link(NamedTuple):
    """A turn's place in the chain: digest of its content, hash, and when it was made, in seconds since 1970."""

    digest: str
    hash: str
    at: float


def seconds_of(created: str) -> float:
    """An ISO 8601 time as seconds since 1970; without a zone it is UTC. Raises ValueError for another text."""
    when = datetime.fromisoformat(created)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def now() -> str:
    """This moment in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def dense(turn: Turn) -> Turn:
    """The same turn with arrays in place of tuples: converted once, for the digest and for the columns."""
    made = turn.generation
    arrays: Any = {
        "ids": integer_array(made.ids),
        "logprobs": float_array(made.logprobs),
        "margins": float_array(made.margins),
    }
    prompt: Any = integer_array(turn.prompt)
    return replace(
        turn,
        request=tuple(map(_dense_part, turn.request)),
        reply=tuple(map(_dense_part, turn.reply)),
        prompt=prompt,
        generation=replace(made, **arrays),
    )


def _dense_part(part: Part) -> Part:
    if part.span is None:
        return part
    ids: Any = integer_array(part.span.ids)
    return replace(part, span=Span(part.span.modality, ids))


def insert_turn(connection: Connection, turn: Turn, link: Link) -> int:
    """Write the row of the chain; returns its number."""
    key = connection.execute(NEW_TURN, _turn_values(turn, link)).inserted_primary_key
    return int(key[0]) if key else 0


def insert_turns(connection: Connection, turns: Sequence[Turn], links: Sequence[Link]) -> list[int]:
    """Write many rows of the chain; returns their numbers."""
    if not turns:
        return []
    connection.execute(NEW_TURN, [_turn_values(*row) for row in zip(turns, links, strict=True)])
    numbers: dict[str, int] = {}
    for start in range(0, len(turns), BATCH):
        ids = [turn.id for turn in turns[start : start + BATCH]]
        found = connection.execute(select(TurnRow.id, TurnRow.number).where(TurnRow.id.in_(ids)))
        numbers.update({row.id: row.number for row in found})
    return [numbers[turn.id] for turn in turns]


def _turn_values(turn: Turn, link: Link) -> dict[str, Any]:
    return {
        "id": turn.id,
        "conversation": turn.conversation,
        "parent": turn.parent,
        "run": turn.run,
        "created": turn.created,
        "at": link.at,
        "dropped": turn.dropped,
        "options": dict(turn.options),
        "digest": link.digest,
        "hash": link.hash,
    }


def insert_content(connection: Connection, number: int, turn: Turn) -> None:
    """Write what a turn holds beside its row of the chain."""
    insert_contents(connection, [number], [turn])


def insert_contents(connection: Connection, numbers: Sequence[int], turns: Sequence[Turn]) -> None:
    """Write what many turns hold beside their rows of the chain."""
    pairs = list(zip(numbers, turns, strict=True))
    generations = [_generation_values(number, turn) for number, turn in pairs]
    parts = [
        _part_values(number, side, position, part)
        for number, turn in pairs
        for side, parts in zip(SIDES, (turn.request, turn.reply), strict=True)
        for position, part in enumerate(parts)
    ]
    timings = [
        {"turn": number, "node": node, "seconds": float(value)}
        for number, turn in pairs
        for node, value in turn.timings.items()
    ]
    for statement, rows in ((NEW_GENERATION, generations), (NEW_PART, parts), (NEW_TIMING, timings)):
        if rows:
            connection.execute(statement, rows)


def _generation_values(number: int, turn: Turn) -> dict[str, Any]:
    made = turn.generation
    return {
        "turn": number,
        "model": turn.model,
        "prompt": turn.prompt,
        "ids": made.ids,
        "logprobs": made.logprobs,
        "margins": made.margins,
        "prompt_tokens": len(turn.prompt),
        "tokens": len(made.ids),
        "finish": made.finish,
        "seed": made.seed,
        "bounds": bounds_document(turn.bounds),
        "sampling": sampling_document(turn.sampling),
        "fingerprints": _spelled(tuple(turn.fingerprints.items())),
        "versions": _spelled(tuple(turn.versions.items())),
    }


@lru_cache(maxsize=64)
def _spelled(texts: tuple[tuple[str, str], ...]) -> Spelled:
    """What an engine's turns share, spelled once. Of texts alone: equal numbers (0.0 and -0.0) are spelled apart."""
    return Spelled(canonical(dict(texts)))


def _part_values(number: int, side: str, position: int, part: Part) -> dict[str, Any]:
    return {
        "turn": number,
        "side": side,
        "position": position,
        "modality": part.modality.value,
        "text": part.text,
        "media": part.media.hash if part.media else None,
        "description": media_document(part.media) if part.media else None,
        "span": part.span.ids if part.span else None,
        "span_modality": part.span.modality.value if part.span else None,
        "kind": part.kind,
        "generated": part.generated,
        "seed": part.seed,
    }


def load_turns(connection: Connection, numbers: Iterable[int]) -> list[Turn]:
    """The turns with these numbers, in this order; erased ones are left out."""
    wanted = list(numbers)
    found = load_numbered(connection, wanted)
    return [found[number] for number in wanted if number in found]


def load_numbered(connection: Connection, numbers: Sequence[int]) -> dict[int, Turn]:
    """Number -> turn; erased ones are left out."""
    found: dict[int, Turn] = {}
    for start in range(0, len(numbers), BATCH):
        found.update(_load(connection, numbers[start : start + BATCH]))
    return found


def _load(connection: Connection, numbers: Sequence[int]) -> dict[int, Turn]:
    content = (
        select(TurnRow.__table__, GenerationRow.__table__)
        .join(GenerationRow, GenerationRow.turn == TurnRow.number)
        .where(TurnRow.number.in_(numbers), TurnRow.erased.is_(None))
    )
    rows = connection.execute(content).all()
    parts: dict[tuple[int, str], list[Part]] = defaultdict(list)
    for row in connection.execute(
        select(PartRow.__table__).where(PartRow.turn.in_(numbers)).order_by(PartRow.position)
    ):
        parts[row.turn, row.side].append(_part(row))
    timings: dict[int, dict[str, float]] = defaultdict(dict)
    for row in connection.execute(select(TimingRow.__table__).where(TimingRow.turn.in_(numbers))):
        timings[row.turn][row.node] = row.seconds
    return {
        row.number: _turn(
            row, tuple(parts[row.number, "request"]), tuple(parts[row.number, "reply"]), timings[row.number]
        )
        for row in rows
    }


def _turn(row: Row[Any], request: tuple[Part, ...], reply: tuple[Part, ...], timings: dict[str, float]) -> Turn:
    return Turn(
        id=row.id,
        conversation=row.conversation,
        parent=row.parent,
        run=row.run,
        request=request,
        reply=reply,
        prompt=tuple(row.prompt.tolist()),
        generation=Generation(
            ids=tuple(row.ids.tolist()),
            logprobs=tuple(row.logprobs.tolist()),
            margins=tuple(row.margins.tolist()),
            finish=cast(Finish, row.finish),
            seed=row.seed,
        ),
        bounds=read_bounds(row.bounds),
        sampling=read_sampling(row.sampling),
        model=row.model,
        fingerprints=row.fingerprints,
        versions=row.versions,
        timings=timings,
        options=row.options,
        created=row.created,
        dropped=row.dropped,
        hash=row.hash,
    )


def _part(row: Row[Any]) -> Part:
    modality = row.span_modality
    return Part(
        modality=Modality(row.modality),
        text=row.text,
        media=read_media(row.description) if row.description else None,
        span=Span(Modality(modality), tuple(row.span.tolist())) if modality else None,
        kind=row.kind,
        generated=row.generated,
        seed=row.seed,
    )
