"""The store: one database and one folder of blobs, behind the ports that nodes speak to (nodes/ports.py).

A thin front: each method is one line of the part that does the work. Knows no model and no graph. Sync, safe for
threads and for several processes; async callers use `asyncio.to_thread`.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL

from ..anygpt_model.errors import StoreError
from ..anygpt_model.values import Media, Turn
from .blobs import BlobFiles
from .chain import ChainReport, verify_chain
from .database import Database, parse_url
from .jobs import Jobs
from .lifecycle import Erased, Lifecycle
from .listing import ConversationSummary, Listing, TurnSummary
from .media import MediaShelf
from .memo import Codes, MemoTable, codes_hash
from .schema import ensure, identity
from .together import record_together, recorded_runs
from .turns import TurnLog
from .voices import VoiceTable


class Store:
    """Everything that Anyloom keeps. Use as a context manager, or call `close()`."""

    def __init__(self, database: Database, files: BlobFiles) -> None:
        ensure(database)
        if not database.in_memory:
            files.claim(identity(database))
        self.database = database
        self.files = files
        self.log = TurnLog(database)
        self.media = MediaShelf(database, files)
        self.memo = MemoTable(database, self.media)
        self.voices = VoiceTable(database, self.media)
        self.lists = Listing(database)
        self.life = Lifecycle(database, self.media)
        self.jobs = Jobs(database)

    @property
    def name(self) -> str:
        """Where the database is, without a password."""
        return self.database.name

    def record(self, turn: Turn) -> Turn:
        """Write one turn in one transaction and return it with its hash; a run already recorded returns its turn.

        Raises UnknownName if the parent is not in the store, StoreError if a medium was not put or the id is taken.
        """
        return self.log.record(turn)

    def record_all(self, turns: Sequence[Turn]) -> list[Turn]:
        """As `record`, of many turns that don't follow one another, in one transaction: all are written or none."""
        return record_together(self.database, turns)

    def recorded(self, runs: Iterable[str]) -> dict[str | None, Turn]:
        """Run -> its turn, of those runs that have recorded one."""
        return recorded_runs(self.database, runs)

    def turn(self, id: str) -> Turn:
        """One turn, by id or a unique prefix of 8 characters or more; UnknownName if there is none or it is erased."""
        return self.log.turn(id)

    def lineage(self, id: str) -> Sequence[Turn]:
        """The turn and its ancestors, oldest first; erased ones are left out."""
        return self.log.lineage(id)

    def tip(self, conversation: str) -> Turn | None:
        """The newest turn of a conversation that is not erased, or None."""
        return self.log.tip(conversation)

    def put(self, data: bytes, media: Media) -> Media:
        """Keep `data`, described by `media`; returns what is kept. The bytes are on disk before this returns."""
        return self.media.put(data, media)

    def get(self, hash: str) -> bytes:
        """The bytes of a medium; StoreError if they are missing, evicted or no longer match their hash."""
        return self.media.get(hash)

    def describe(self, hash: str) -> Media:
        """What is known of a kept medium; UnknownName if there is none."""
        return self.media.describe(hash)

    def evict(self, hashes: Iterable[str] | None = None) -> list[str]:
        """Drop the bytes of generated media, which their ids make again; returns the hashes of those dropped."""
        return self.media.evict(hashes)

    def codes(self, media: str, fingerprint: str) -> Codes | None:
        """The codes [codebooks, frames] of a medium made before by that codec, or None."""
        return self.memo.codes(media, fingerprint)

    def keep_codes(self, media: str, fingerprint: str, codes: Codes) -> None:
        """Remember the codes [codebooks, frames] of a medium."""
        self.memo.keep_codes(media, fingerprint, codes)

    def decoded(self, codes: Codes, fingerprint: str, seed: int) -> Media | None:
        """The medium that this decoder made of `codes` [codebooks, frames] before, if its bytes are kept, or None."""
        return self.memo.decoded(codes_hash(codes), fingerprint, seed)

    def keep_decoded(self, codes: Codes, fingerprint: str, seed: int, media: str) -> None:
        """Remember that this decoder made of `codes` [codebooks, frames] the medium with the hash `media`."""
        self.memo.keep_decoded(codes_hash(codes), fingerprint, seed, media)

    def voice(self, name: str) -> Media:
        """The recording of a saved voice; UnknownName if there is none."""
        return self.voices.voice(name)

    def conversations(self, limit: int = 50, before: str | None = None) -> list[ConversationSummary]:
        """A page of conversations, the last used first; `before` is the id of the last one of the page before."""
        return self.lists.conversations(limit, before)

    def turns(self, conversation: str | None = None, limit: int = 50, before: int | None = None) -> list[TurnSummary]:
        """A page of turns, newest first; `before` is the number of the last one of the page before."""
        return self.lists.turns(conversation, limit, before)

    def children(self, id: str) -> list[TurnSummary]:
        """The turns that follow a turn, oldest first: more than one where it was forked."""
        return self.lists.children(id)

    def search(
        self, words: str, conversation: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[TurnSummary]:
        """A page of the turns whose texts hold all of `words`, each as the beginning of a word, newest first."""
        return self.lists.search(words, conversation, limit, before)

    def erase(self, turns: Sequence[str]) -> Erased:
        """Drop the content of these turns for good, and the media that nothing else refers to."""
        return self.life.erase(turns)

    def delete(self, conversation: str) -> Erased:
        """Drop the content of a whole conversation for good."""
        return self.life.delete(conversation)

    def prune(
        self,
        *,
        older_than: float | None = None,
        max_bytes: int | None = None,
        conversations: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> Erased:
        """Drop turns by age (seconds), then oldest first until at most `max_bytes` are left: see lifecycle.py."""
        return self.life.prune(older_than=older_than, max_bytes=max_bytes, conversations=conversations, dry_run=dry_run)

    def verify_chain(self) -> ChainReport:
        """Derive every digest and hash again and say which stored ones differ."""
        return verify_chain(self.database)

    def close(self) -> None:
        """Give all connections back; a store in memory is gone with this."""
        self.database.close()
        if self.database.in_memory:
            self.files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_store(
    url: str | os.PathLike[str] | None = None, *, home: Path | None = None, blobs: str | None = None
) -> Store:
    """Open a store, made or upgraded as needed.

    url: a file path (SQLite) or a SQLAlchemy URL; without one ANYLOOM_DATABASE_URL, or `anyloom.db` in `home`.
    home: the data folder; without one ANYLOOM_HOME, or the user's own.
    blobs: a folder or an fsspec URL for media; without one ANYLOOM_BLOBS_URL, or a folder beside the database.
    Raises SettingsError for a URL that can't be read, StoreError for a database that can't be opened.
    """
    given = os.fspath(url) if url is not None else os.environ.get("ANYLOOM_DATABASE_URL") or None
    where = parse_url(given) if given else URL.create("sqlite", database=str(data_folder(home) / "anyloom.db"))
    if where.get_backend_name() == "sqlite" and where.database in (None, "", ":memory:"):
        return memory_store()
    place = blobs or os.environ.get("ANYLOOM_BLOBS_URL") or str(_blob_folder(where, home))
    if where.get_backend_name() == "sqlite":
        _make_folder(Path(where.database or "").absolute().parent)
    return Store(Database(where), BlobFiles(place))


def memory_store() -> Store:
    """A store that lives and dies with this process."""
    return Store(Database(URL.create("sqlite")), BlobFiles(f"memory://anyloom-{uuid.uuid4().hex}"))


def data_folder(home: Path | None = None) -> Path:
    """`home`, or ANYLOOM_HOME, or the user's data folder."""
    if home is not None:
        return Path(home)
    if named := os.environ.get("ANYLOOM_HOME"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("anyloom", appauthor=False))


def _blob_folder(url: URL, home: Path | None) -> Path:
    """Every database has a blob folder of its own: what the one doesn't know would be an orphan to its doctor."""
    if url.get_backend_name() == "sqlite":
        database = Path(url.database or "").absolute()
        return database.parent / f"{database.stem}.blobs"
    identity = url.set(username=None, password=None).render_as_string(hide_password=True)
    return data_folder(home) / f"{url.database or 'postgres'}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.blobs"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The store's folder {folder} can't be made ({error.strerror}); set ANYLOOM_HOME to another."
        ) from error
