"""One archive of a store or of some conversations: a zip of JSON lines and blobs, as docs/trace-format.md describes.

The same content gives the same bytes: rows in their order, names sorted, no clock. An import checks every digest, every
hash and every blob before it writes the first row, and doing it twice changes nothing. Knows no model.
"""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from ..anygpt_model.errors import StoreError, UnknownName
from .documents import media_document, turn_document
from .redaction import redact_media, redact_turn
from .rows import BATCH, load_turns
from .tables import CodesMemo, Conversation, MediaRow, PartRow, TurnRow
from .voices import Voice, saved

if TYPE_CHECKING:
    from .store import Store

FORMAT = "anyloom-archive"
VERSION = 1
MANIFEST, TURNS, MEDIA, MEMO, VOICES = "manifest.json", "turns.jsonl", "media.jsonl", "memo.jsonl", "voices.jsonl"
BLOBS = "blobs/"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip can name: archives carry no clock."""
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first file of an archive. turns, media, memo, voices: how many lines each file has."""

    turns: int
    media: int
    memo: int
    voices: int
    redacted: bool = False
    format: str = FORMAT
    version: int = VERSION


def export_archive(
    store: Store, path: str | os.PathLike[str], *, conversations: Sequence[str] | None = None, redact: bool = False
) -> Manifest:
    """Write the store, or some conversations with the turns that they were forked from, to `path`.

    redact: leave out everything that was said, shown or heard (texts, ids, media, names); what stays can be sent to a
    stranger and not be imported. Raises UnknownName for a conversation that is not there, StoreError for a lost blob.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            manifest = _export(store, file, conversations, redact)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise StoreError(f"The archive {target} can't be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return manifest


def _export(store: Store, file: IO[bytes], conversations: Sequence[str] | None, redact: bool) -> Manifest:
    with store.database.reading(still=True) as connection, zipfile.ZipFile(file, "w") as archive:
        numbers = _numbers(connection, conversations)
        voices = [] if redact or conversations is not None else saved(connection)
        hashes = _media_of(connection, numbers) | {voice.media.hash for voice in voices}
        media = _media(connection, hashes)
        memo = [] if redact else list(_memo(connection, hashes))
        manifest = Manifest(len(numbers), len(media), len(memo), len(voices), redact)
        _write(archive, MANIFEST, [asdict(manifest)])
        turns = _turns(connection, numbers)
        _write(archive, TURNS, (redact_turn(one) for one in turns) if redact else turns)
        _write(archive, MEDIA, [redact_media(one) for one in media] if redact else media)
        _write(archive, MEMO, memo)
        _write(archive, VOICES, [_voice(voice) for voice in voices])
        for one in media if not redact else []:
            if one["present"]:
                archive.writestr(_entry(BLOBS + one["hash"].removeprefix("sha256:")), store.files.read(one["hash"]))
    return manifest


def _entry(name: str, compression: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    return entry


def _write(archive: zipfile.ZipFile, name: str, lines: Iterable[Document]) -> None:
    with archive.open(_entry(name, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as file:
        for line in lines:
            file.write(json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n")


def _numbers(connection: Connection, conversations: Sequence[str] | None) -> list[int]:
    """Numbers of the turns to write: those of the conversations, and all before them."""
    links = TurnRow.__table__.c["number", "id", "parent"]
    if conversations is None:
        return list(connection.scalars(select(TurnRow.number).order_by(TurnRow.number)))
    for name in conversations:
        if connection.scalar(select(Conversation.id).where(Conversation.id == name)) is None:
            raise UnknownName(f"There is no conversation {name!r} in this store.")
    fresh = connection.execute(select(*links).where(TurnRow.conversation.in_(conversations))).all()
    found: dict[str, int] = {}
    parents: set[str] = set()
    while fresh:
        found.update({row.id: row.number for row in fresh})
        parents = (parents | {row.parent for row in fresh if row.parent}) - found.keys()
        fresh = connection.execute(select(*links).where(TurnRow.id.in_(sorted(parents)[:BATCH]))).all()
    return sorted(found.values())


def _turns(connection: Connection, numbers: Sequence[int]) -> Iterator[Document]:
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        content = {turn.id: turn for turn in load_turns(connection, some)}
        columns = TurnRow.__table__.c["id", "conversation", "parent", "digest", "hash", "erased"]
        for row in connection.execute(select(*columns).where(TurnRow.number.in_(some)).order_by(TurnRow.number)):
            link = {"digest": row.digest, "hash": row.hash, "erased": row.erased}
            if row.erased:
                yield {**link, "turn": {"id": row.id, "conversation": row.conversation, "parent": row.parent}}
            else:
                yield {**link, "turn": turn_document(content[row.id])}


def _media_of(connection: Connection, numbers: Sequence[int]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        used = select(PartRow.media).where(PartRow.turn.in_(some), PartRow.media.is_not(None))
        found.update(str(name) for name in connection.scalars(used))
    return found


def _media(connection: Connection, hashes: set[str]) -> list[Document]:
    columns = MediaRow.__table__.c["hash", "content", "mime", "size", "width", "height", "duration", "sample_rate"]
    rows = connection.execute(select(*columns, MediaRow.present))
    return sorted((dict(row._mapping) for row in rows if row.hash in hashes), key=lambda one: str(one["hash"]))


def _memo(connection: Connection, hashes: set[str]) -> Iterator[Document]:
    rows = connection.execute(select(CodesMemo.__table__)).all()
    for row in sorted(rows, key=lambda row: (row.media, row.fingerprint)):
        if row.media in hashes:
            yield {**row._mapping, "codes": row.codes.tolist()}


def _voice(voice: Voice) -> Document:
    return {
        "name": voice.name,
        "media": media_document(voice.media)["hash"],
        "consent": voice.consent,
        "created": voice.created,
    }
