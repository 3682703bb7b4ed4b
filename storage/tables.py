"""The tables. A turn is a row of `turns` (its place in the chain); `generations`, `parts`, `timings` hold its content.

Knows no query. The full-text index `search` is a virtual table on SQLite and a tsvector on PostgreSQL: see search.py.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .columns import AnyText, Floats, Integers, Json, WideInt

CODE = Text().with_variant(Text(collation="C"), "postgresql")
"""An identifier, ordered byte by byte on both databases, so that a prefix is a range of the index."""
NUMBER = BigInteger().with_variant(Integer(), "sqlite")
"""A growing row number; SQLite's rowid alias has to be spelled INTEGER."""


class Base(DeclarativeBase):
    """Names every constraint alike, so that a migration can name it too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Conversation(Base):
    """A thread of turns. Its tip is its newest turn that is not erased."""

    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(AnyText, primary_key=True)
    created: Mapped[float] = mapped_column(Double)
    """Seconds since 1970, of its first turn."""
    updated: Mapped[float] = mapped_column(Double, index=True)
    """Seconds since 1970, of its newest turn."""


class TurnRow(Base):
    """One link of the chain. An erased turn keeps this row alone: id, parent, digest and hash."""

    __tablename__ = "turns"
    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(CODE, unique=True)
    conversation: Mapped[str] = mapped_column(AnyText, ForeignKey("conversations.id"))
    parent: Mapped[str | None] = mapped_column(CODE, ForeignKey("turns.id"), index=True)
    run: Mapped[str | None] = mapped_column(AnyText, unique=True)
    created: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Double, index=True)
    """`created` as seconds since 1970; 0 once erased."""
    dropped: Mapped[int] = mapped_column(Integer)
    options: Mapped[Any] = mapped_column(Json)
    digest: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(Text)
    erased: Mapped[str | None] = mapped_column(Text)
    """When the content was erased (ISO 8601, UTC), or None."""
    __table_args__ = (Index("ix_turns_conversation_number", "conversation", "number"),)


class GenerationRow(Base):
    """What the model read and wrote in one turn, and all that is needed to have it do so again."""

    __tablename__ = "generations"
    turn: Mapped[int] = mapped_column(NUMBER, ForeignKey("turns.number"), primary_key=True, autoincrement=False)
    model: Mapped[str] = mapped_column(AnyText)
    prompt: Mapped[Any] = mapped_column(Integers)
    ids: Mapped[Any] = mapped_column(Integers)
    logprobs: Mapped[Any] = mapped_column(Floats)
    margins: Mapped[Any] = mapped_column(Floats)
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)
    finish: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(WideInt)
    bounds: Mapped[Any] = mapped_column(Json)
    sampling: Mapped[Any] = mapped_column(Json)
    fingerprints: Mapped[Any] = mapped_column(Json)
    versions: Mapped[Any] = mapped_column(Json)


class PartRow(Base):
    """One part of a request or a reply, in its place."""

    __tablename__ = "parts"
    turn: Mapped[int] = mapped_column(NUMBER, ForeignKey("turns.number"), primary_key=True, autoincrement=False)
    side: Mapped[str] = mapped_column(Text, primary_key=True)
    """"request" or "reply"."""
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    modality: Mapped[str] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(AnyText)
    media: Mapped[str | None] = mapped_column(Text, ForeignKey("media.hash"), index=True)
    description: Mapped[Any] = mapped_column(Json, nullable=True)
    """The medium as this turn described it: content of the turn, so the chain does not lean on the table of media."""
    span: Mapped[Any] = mapped_column(Integers, nullable=True)
    span_modality: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    generated: Mapped[bool] = mapped_column(Boolean)
    seed: Mapped[int | None] = mapped_column(WideInt)


class TimingRow(Base):
    """Seconds that one node took in one turn."""

    __tablename__ = "timings"
    turn: Mapped[int] = mapped_column(NUMBER, ForeignKey("turns.number"), primary_key=True, autoincrement=False)
    node: Mapped[str] = mapped_column(AnyText, primary_key=True)
    seconds: Mapped[float] = mapped_column(Double)


class MediaRow(Base):
    """A kept picture or sound; its bytes lie in the blob folder under its hash, unless `present` is false (evicted)."""

    __tablename__ = "media"
    hash: Mapped[str] = mapped_column(Text, primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    mime: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    duration: Mapped[float | None] = mapped_column(Double)
    sample_rate: Mapped[int | None] = mapped_column(Integer)
    refs: Mapped[int] = mapped_column(Integer)
    """How many parts and voices refer to it."""
    present: Mapped[bool] = mapped_column(Boolean)
    touched: Mapped[float] = mapped_column(Double)
    """Seconds since 1970, when it was last put: what is being put now is not an orphan yet."""


class CodesMemo(Base):
    """Media hash + codec fingerprint -> codes [codebooks, frames]."""

    __tablename__ = "memo_codes"
    media: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True)
    codebooks: Mapped[int] = mapped_column(Integer)
    codes: Mapped[Any] = mapped_column(Integers)


class MediaMemo(Base):
    """Digest of codes + decoder fingerprint + seed -> media hash."""

    __tablename__ = "memo_media"
    codes: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True)
    seed: Mapped[int] = mapped_column(WideInt, primary_key=True)
    media: Mapped[str] = mapped_column(Text, index=True)


class VoiceRow(Base):
    """A named voice: its recording and the speaker's consent in words."""

    __tablename__ = "voices"
    name: Mapped[str] = mapped_column(AnyText, primary_key=True)
    media: Mapped[str] = mapped_column(Text, ForeignKey("media.hash"), index=True)
    consent: Mapped[str] = mapped_column(AnyText)
    created: Mapped[str] = mapped_column(Text)


class JobRow(Base):
    """A batch job, known by its name."""

    __tablename__ = "jobs"
    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(AnyText, unique=True)
    settings: Mapped[Any] = mapped_column(Json)
    created: Mapped[str] = mapped_column(Text)


class ItemRow(Base):
    """One input of a job. `key` says what is to be done with what; a changed key makes a finished item stale."""

    __tablename__ = "items"
    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=True)
    job: Mapped[int] = mapped_column(NUMBER, ForeignKey("jobs.number"))
    name: Mapped[str] = mapped_column(AnyText)
    key: Mapped[str] = mapped_column(Text)
    source: Mapped[Any] = mapped_column(Json)
    state: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str | None] = mapped_column(AnyText)
    lease: Mapped[float | None] = mapped_column(Double)
    """Until when (seconds since 1970) the worker's claim holds."""
    turn: Mapped[str | None] = mapped_column(CODE, ForeignKey("turns.id"), index=True)
    outputs: Mapped[Any] = mapped_column(Json, nullable=True)
    reason: Mapped[str | None] = mapped_column(AnyText)
    updated: Mapped[float] = mapped_column(Double)
    __table_args__ = (
        UniqueConstraint("job", "name"),
        Index("ix_items_job_state", "job", "state", "number"),
        Index("ix_items_job_key", "job", "key"),
    )


class Fact(Base):
    """A thing the store knows of itself, such as its own identity."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)


__all__ = [
    "Base",
    "CodesMemo",
    "Conversation",
    "Fact",
    "GenerationRow",
    "ItemRow",
    "JobRow",
    "MediaMemo",
    "MediaRow",
    "PartRow",
    "TimingRow",
    "TurnRow",
    "VoiceRow",
]
