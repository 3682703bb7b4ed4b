"""Kept media: their bytes in the blob folder, their description and reference count in the database.

A blob is on disk before its row. Generated media may be evicted: their ids make them again. Knows no turn's content.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, delete, exists, select, update

from ..anygpt_model.errors import StoreError, UnknownName
from ..anygpt_model.values import Media
from .blobs import BlobFiles, hash_of
from .database import Database, upsert
from .tables import CodesMemo, MediaMemo, MediaRow, PartRow, VoiceRow


class MediaShelf:
    """The media of one store."""

    def __init__(self, database: Database, files: BlobFiles) -> None:
        self._database = database
        self._files = files

    def put(self, data: bytes, media: Media) -> Media:
        """Keep `data`, described by `media`; returns what is kept. Raises StoreError if the hash is of other bytes."""
        name = hash_of(data)
        if media.hash != name or media.size != len(data):
            raise StoreError(
                f"The description says {media.hash} of {media.size} bytes, the medium is {name} of {len(data)}; "
                "describe the bytes that are put."
            )
        self._files.write(data)
        with self._database.writing() as connection:
            keep_row(connection, media, present=True)
            # An eviction may have run between the two lines above; it holds this row's lock while it removes the file.
            self._files.write(data)
            return describe(connection, name)

    def get(self, name: str) -> bytes:
        """The bytes. Raises StoreError if they are missing, evicted or no longer match their hash."""
        try:
            return self._files.read(name)
        except StoreError:
            with self._database.reading() as connection:
                kept = connection.execute(select(MediaRow.present).where(MediaRow.hash == name)).first()
            if kept is not None and not kept.present:
                raise StoreError(
                    f"The medium {name} was evicted to save space; replay its turn to make it again from its ids."
                ) from None
            raise

    def describe(self, name: str) -> Media:
        """What is known of a kept medium. Raises UnknownName."""
        with self._database.reading() as connection:
            return describe(connection, name)

    def present(self, name: str) -> bool:
        """Whether the bytes are kept, that is: known and not evicted."""
        with self._database.reading() as connection:
            return bool(connection.scalar(select(MediaRow.present).where(MediaRow.hash == name)))

    def evict(self, names: Iterable[str] | None = None) -> list[str]:
        """Drop the bytes of generated media: all, or those of `names` that are generated; returns their hashes.

        Only media to which nothing but generated parts refer: these can be made again from the ids of their turns.
        """
        wanted = None if names is None else set(names)
        with self._database.reading() as connection:
            found = self.evictable(connection)
        return [name for name in found if (wanted is None or name in wanted) and self._evict(name)]

    def evictable(self, connection: Connection) -> list[str]:
        """Hashes of the media whose bytes can be made again."""
        return list(connection.scalars(select(MediaRow.hash).where(_evictable()).order_by(MediaRow.hash)))

    def _evict(self, name: str) -> bool:
        with self._database.writing() as connection:
            statement = update(MediaRow).where(MediaRow.hash == name, _evictable()).values(present=False)
            if not connection.execute(statement).rowcount:
                return False
            self._files.remove(name)
            return True

    def sweep(self, names: Iterable[str], untouched_since: float) -> list[str]:
        """Drop media that nothing refers to and nobody has put since that moment, with what was remembered of them."""
        return [name for name in names if self._sweep(name, untouched_since)]

    def _sweep(self, name: str, untouched_since: float) -> bool:
        with self._database.writing() as connection:
            loose = delete(MediaRow).where(
                MediaRow.hash == name, MediaRow.refs == 0, MediaRow.touched <= untouched_since
            )
            if not connection.execute(loose).rowcount:
                return False
            connection.execute(delete(CodesMemo).where(CodesMemo.media == name))
            connection.execute(delete(MediaMemo).where(MediaMemo.media == name))
            self._files.remove(name)
            return True


def _evictable() -> ColumnElement[bool]:
    """Present, referred to, and by generated parts with ids alone."""
    parts = PartRow.media == MediaRow.hash
    made = PartRow.generated & PartRow.span.is_not(None)
    return (
        MediaRow.present
        & exists().where(parts, made)
        & ~exists().where(parts, ~made)
        & ~exists().where(VoiceRow.media == MediaRow.hash)
    )


def keep_row(connection: Connection, media: Media, *, present: bool) -> None:
    """Make the row of a medium or touch the one there is. present: its bytes are in the blob folder."""
    row = upsert(connection, MediaRow).values(
        hash=media.hash,
        content=media.content,
        mime=media.mime,
        size=media.size,
        width=media.width,
        height=media.height,
        duration=media.duration,
        sample_rate=media.sample_rate,
        refs=0,
        present=present,
        touched=time.time(),
    )
    again = {"touched": time.time(), **({"present": True} if present else {})}
    connection.execute(row.on_conflict_do_update(index_elements=["hash"], set_=again))


def describe(connection: Connection, name: str) -> Media:
    """What is known of a kept medium. Raises UnknownName."""
    row = connection.execute(select(MediaRow.__table__).where(MediaRow.hash == name)).first()
    if row is None:
        raise UnknownName(f"There is no medium {name} in this store.")
    return Media(
        hash=row.hash,
        content=row.content,
        mime=row.mime,
        size=row.size,
        width=row.width,
        height=row.height,
        duration=row.duration,
        sample_rate=row.sample_rate,
    )
