"""What was computed once: codes of a medium, and the medium of codes. Knows no codec, only fingerprints of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from ..anygpt_model.values import Media
from .database import Database, upsert
from .media import MediaShelf
from .tables import CodesMemo, MediaMemo, MediaRow

Codes = NDArray[np.int64]


def codes_hash(codes: Codes) -> str:
    """ "sha256:<hex>" of codes [codebooks, frames]: their shape and their numbers."""
    array = np.ascontiguousarray(codes, dtype="<i8")
    return "sha256:" + hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


class MemoTable:
    """The memory of one store."""

    def __init__(self, database: Database, media: MediaShelf) -> None:
        self._database = database
        self._media = media

    def codes(self, media: str, fingerprint: str) -> Codes | None:
        """The codes made before, [codebooks, frames], or None."""
        wanted = select(CodesMemo.codebooks, CodesMemo.codes).where(
            CodesMemo.media == media, CodesMemo.fingerprint == fingerprint
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).first()
        return None if row is None else np.asarray(row.codes, dtype=np.int64).reshape(row.codebooks, -1)

    def keep_codes(self, media: str, fingerprint: str, codes: Codes) -> None:
        """Remember `codes` [codebooks, frames]."""
        values = {"codebooks": codes.shape[0], "codes": codes.reshape(-1)}
        with self._database.writing() as connection:
            _put(connection, CodesMemo, {"media": media, "fingerprint": fingerprint}, values)

    def decoded(self, codes: str, fingerprint: str, seed: int) -> Media | None:
        """The medium that a decoder made of these codes (`codes_hash`) with this seed, if its bytes are still kept."""
        wanted = (
            select(MediaMemo.media)
            .join(MediaRow, MediaRow.hash == MediaMemo.media)
            .where(MediaMemo.codes == codes, MediaMemo.fingerprint == fingerprint, MediaMemo.seed == seed)
            .where(MediaRow.present)
        )
        with self._database.reading() as connection:
            found = connection.scalar(wanted)
        return None if found is None else self._media.describe(found)

    def keep_decoded(self, codes: str, fingerprint: str, seed: int, media: str) -> None:
        """Remember that these codes gave the medium with the hash `media`."""
        key = {"codes": codes, "fingerprint": fingerprint, "seed": seed}
        with self._database.writing() as connection:
            _put(connection, MediaMemo, key, {"media": media})


def _put(connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    row = upsert(connection, table).values(**key, **values)
    connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=values))
