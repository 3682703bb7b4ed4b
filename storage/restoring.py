"""Reads an archive into a store: first everything is checked, then it is written, some turns a transaction.

An archive comes from outside, so its names are matched, its sizes limited, its hashes derived again. What the store has
already is left as it is; a turn that was erased here stays erased. Knows no model.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sqlalchemy import Connection, insert, select

from ..anygpt_model.errors import StoreError
from ..anygpt_model.values import Media, Turn
from .archive import BLOBS, FORMAT, MANIFEST, MEDIA, MEMO, TURNS, VERSION, VOICES, Manifest
from .blobs import HASH, hash_of
from .documents import chain, digest, read_media, read_turn
from .media import keep_row
from .rows import now, seconds_of
from .tables import TurnRow
from .turns import append, touch_conversations

if TYPE_CHECKING:
    from .store import Store

LONGEST_LINE = 2**28
LARGEST_BLOB = 2**30
BATCH = 200
"""Turns that are written in one transaction: other writers wait for no longer than that takes."""
FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
Document = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Link:
    """A line of turns.jsonl. turn: None for a tombstone."""

    id: str
    conversation: str
    parent: str | None
    digest: str
    hash: str
    erased: str | None
    turn: Turn | None


@dataclass(frozen=True, slots=True)
class Imported:
    """turns: how many were written. known: how many were there already. erased: how many stay erased here."""

    turns: int
    known: int
    erased: int
    media: int
    voices: int


def import_archive(store: Store, path: str | os.PathLike[str]) -> Imported:
    """Read the archive at `path` into `store`. Raises StoreError before anything is written if it is not whole."""
    try:
        with zipfile.ZipFile(Path(path)) as archive:
            _check(archive)
            return _write(store, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise StoreError(f"{path} is no archive that `anyloom traces export` wrote, or damaged: {error}.") from error
    except OSError as error:
        raise StoreError(f"The archive {path} can't be read ({error.strerror or error}).") from error


def _check(archive: zipfile.ZipFile) -> None:
    """Read all of it once, writing nothing."""
    manifest = _manifest(archive)
    media = {one.hash: present for one, present in _media(archive)}
    for name, present in media.items():
        if present:
            _blob(archive, name)
    hashes: dict[str, str] = {}
    for link in _links(archive):
        _check_link(link, hashes, media)
    voices = list(_lines(archive, VOICES, _voice))
    found = Manifest(len(hashes), len(media), sum(1 for _ in _lines(archive, MEMO, _codes)), len(voices))
    if (found.turns, found.media, found.memo, found.voices) != _counts(manifest):
        raise StoreError(
            f"The archive says it holds {_counts(manifest)} lines and holds {_counts(found)}; it was cut short."
        )
    for _, name, _, _ in voices:
        if name not in media:
            raise StoreError(f"The archive has a voice of medium {name} and not that medium; it was cut short.")


def _counts(manifest: Manifest) -> tuple[int, int, int, int]:
    return manifest.turns, manifest.media, manifest.memo, manifest.voices


def _check_link(link: Link, hashes: dict[str, str], media: dict[str, bool]) -> None:
    if link.parent is not None and link.parent not in hashes:
        raise StoreError(f"Turn {link.id} of the archive follows turn {link.parent}, which is not in it.")
    if link.turn is not None and digest(link.turn) != link.digest:
        raise StoreError(f"Turn {link.id} of the archive does not match its digest {link.digest}; it was altered.")
    if chain(link.digest, hashes.get(link.parent) if link.parent else None) != link.hash:
        raise StoreError(f"Turn {link.id} of the archive does not match its hash {link.hash}; it was altered.")
    for part in (*link.turn.request, *link.turn.reply) if link.turn else ():
        if part.media and part.media.hash not in media:
            raise StoreError(f"Turn {link.id} refers to medium {part.media.hash}, which the archive does not describe.")
    hashes[link.id] = link.hash


def _write(store: Store, archive: zipfile.ZipFile) -> Imported:
    media = 0
    for one, present in _media(archive):
        if present:
            store.files.write(_blob(archive, one.hash))
        with store.database.writing() as connection:
            keep_row(connection, one, present=present)
        media += 1
    outcomes: list[str] = []
    links = _links(archive)
    while some := list(islice(links, BATCH)):
        with store.database.writing() as connection:
            outcomes += [_write_link(connection, link) for link in some]
    for name, fingerprint, codes in _lines(archive, MEMO, _codes):
        store.keep_codes(name, fingerprint, codes)
    voices = sum(store.voices.link(*voice) for voice in _lines(archive, VOICES, _voice))
    return Imported(outcomes.count("new"), outcomes.count("known"), outcomes.count("erased"), media, voices)


def _write_link(connection: Connection, link: Link) -> str:
    known = connection.execute(select(TurnRow.hash, TurnRow.erased).where(TurnRow.id == link.id)).first()
    if known is not None:
        if known.hash != link.hash:
            raise StoreError(f"Turn {link.id} of the archive is in the store with another hash, {known.hash}.")
        return "erased" if known.erased and link.turn else "known"
    if link.turn is None:
        _write_tombstone(connection, link)
        return "new"
    taken = connection.scalar(select(TurnRow.id).where(TurnRow.run == link.turn.run))
    if taken is not None:
        raise StoreError(f"Turn {link.id} of the archive has run {link.turn.run}, which the store has as turn {taken}.")
    append(connection, link.turn, link.digest, seconds_of(link.turn.created))
    return "new"


def _write_tombstone(connection: Connection, link: Link) -> None:
    touch_conversations(connection, [(link.conversation, 0.0)])
    values: Document = {
        "id": link.id,
        "conversation": link.conversation,
        "parent": link.parent,
        "created": "",
        "at": 0.0,
        "dropped": 0,
        "options": {},
        "digest": link.digest,
        "hash": link.hash,
        "erased": link.erased or now(),
    }
    connection.execute(insert(TurnRow), values)


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    found = next(_lines(archive, MANIFEST, lambda line: Manifest(**line)), None)
    if found is None or found.format != FORMAT:
        raise StoreError("The archive's manifest.json does not say that it is an Anyloom archive.")
    if found.version != VERSION:
        raise StoreError(f"The archive has format {found.version}, this Anyloom reads {VERSION}; upgrade Anyloom.")
    if found.redacted:
        raise StoreError("The archive is redacted: it has no content to import; export it again without --redact.")
    return found


def _media(archive: zipfile.ZipFile) -> Iterator[tuple[Media, bool]]:
    return _lines(archive, MEDIA, _medium)


def _medium(line: Document) -> tuple[Media, bool]:
    present = line.pop("present")
    found = read_media(line)
    if not HASH.match(found.hash) or not isinstance(present, bool) or not 0 <= int(found.size) <= LARGEST_BLOB:
        raise ValueError("hash, size or presence")
    return found, present


def _blob(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a medium. Raises StoreError if they are not those of its hash."""
    try:
        entry = archive.getinfo(BLOBS + name.removeprefix("sha256:"))
    except KeyError as error:
        raise StoreError(f"The archive lacks the medium {name}.") from error
    if entry.file_size > LARGEST_BLOB:
        raise StoreError(f"The medium {name} of the archive has {entry.file_size} bytes; {LARGEST_BLOB} are taken.")
    data = archive.read(entry)
    if hash_of(data) != name:
        raise StoreError(f"The medium {name} of the archive does not match its hash; it was altered.")
    return data


def _links(archive: zipfile.ZipFile) -> Iterator[Link]:
    return _lines(archive, TURNS, _link)


def _link(line: Document) -> Link:
    turn = line["turn"]
    erased = line["erased"]
    content = None if erased else read_turn(turn)
    if content is not None:
        seconds_of(content.created)
    return Link(
        str(turn["id"]),
        str(turn["conversation"]),
        turn["parent"],
        str(line["digest"]),
        str(line["hash"]),
        erased,
        content,
    )


def _codes(line: Document) -> tuple[str, str, Any]:
    return (
        str(line["media"]),
        str(line["fingerprint"]),
        np.array(line["codes"], np.int64).reshape(line["codebooks"], -1),
    )


def _voice(line: Document) -> tuple[str, str, str, str]:
    return str(line["name"]), str(line["media"]), str(line["consent"]), str(line["created"])


def _lines(archive: zipfile.ZipFile, name: str, read: Callable[[Document], T]) -> Iterator[T]:
    """What `read` makes of each line of a file of the archive. Raises StoreError with the line's number."""
    if name not in archive.namelist():
        raise StoreError(f"The archive lacks {name}; it is not one that `anyloom traces export` wrote.")
    with archive.open(name) as file:
        for number, line in enumerate(_cut(iter(lambda: file.readline(LONGEST_LINE), b"")), start=1):
            try:
                yield read(json.loads(line))
            except FAULTS as error:
                raise StoreError(
                    f"Line {number} of {name} is not as docs/trace-format.md has it ({type(error).__name__}: {error})."
                ) from error


def _cut(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without their ends; one without an end was cut short or is too long."""
    for line in lines:
        yield line if line.endswith(b"\n") else b""
