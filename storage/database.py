"""One database: where it is, how connections are set up, transactions, and its errors as one sentence each.

Knows no table. SQLite runs in WAL mode with one writer at a time; readers never wait. A store in memory has one
connection, which is handed round under a lock. Power loss may cost SQLite its last transactions (synchronous=NORMAL),
never its consistency; a killed process costs nothing that was committed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, StaticPool, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from ..anygpt_model.errors import SettingsError, StoreError

PATIENCE = 30.0
"""Seconds that a writer waits for another one to finish."""
POSTGRES = "postgresql"


class Conflict(StoreError):
    """A row is already there, or one that it refers to is not."""


class Database:
    """Opens connections to one URL. Safe for threads and after a fork; `close()` gives all connections back."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.name = url.render_as_string(hide_password=True)
        self.postgres = url.get_backend_name() == POSTGRES
        self.in_memory = not self.postgres and url.database in (None, "", ":memory:")
        self._turnstile = threading.RLock()
        self._process = os.getpid()
        self._engine = create_engine(url, **self._options())
        if not self.postgres:
            event.listen(self._engine, "connect", self._prepare)
            event.listen(self._engine, "begin", _begin)

    def _options(self) -> dict[str, Any]:
        if self.postgres:
            return {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        arguments = {"check_same_thread": False, "timeout": PATIENCE}
        return {"connect_args": arguments, **({"poolclass": StaticPool} if self.in_memory else {})}

    def _prepare(self, connection: Any, _record: Any) -> None:
        """Per connection: we begin transactions ourselves, and erased content is overwritten with zeros."""
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={int(PATIENCE * 1000)}", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        if not self.in_memory:
            _enter_wal(cursor)
        cursor.close()

    @contextmanager
    def reading(self, *, still: bool = False) -> Iterator[Connection]:
        """A connection to read from. still: on PostgreSQL too, all statements see one moment. Raises StoreError."""
        with self._transaction("DEFERRED") as connection:
            if still and self.postgres:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: committed as a whole or not at all. Raises StoreError; Conflict for a key that is taken."""
        self._shed_parent()
        with self._turnstile if not self.postgres else _open_door(), self._transaction("IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[Connection]:
        self._shed_parent()
        door = self._turnstile if self.in_memory else _open_door()
        with door, one_sentence(self.name), self._engine.connect() as connection:
            connection.execution_options(anyloom_begin=mode)
            with connection.begin():
                yield connection

    def _shed_parent(self) -> None:
        """After a fork the pooled connections belong to the parent: drop them without closing."""
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._turnstile = threading.RLock()
            self._engine.dispose(close=False)

    @contextmanager
    def outside(self) -> Iterator[Connection]:
        """A connection without a transaction, for VACUUM and checkpoints."""
        self._shed_parent()
        options = {"isolation_level": "AUTOCOMMIT"} if self.postgres else {"anyloom_begin": None}
        with self._turnstile, one_sentence(self.name), self._engine.connect() as connection:
            yield connection.execution_options(**options)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def upsert(connection: Connection, table: type[Any]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT for `table` that may say what to do on a conflict, which is spelled by each database on its own."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


@contextmanager
def _open_door() -> Iterator[None]:
    yield


def _begin(connection: Connection) -> None:
    """A writer takes its lock at once: a reader that turns writer would be refused without waiting."""
    mode = connection.get_execution_options().get("anyloom_begin", "DEFERRED")
    if mode is not None:  # by the driver itself: every turn waits for this
        connection.connection.cursor().execute(f"BEGIN {mode}")


def _enter_wal(cursor: Any) -> None:
    """Switch to the write-ahead log. SQLite refuses this at once where another process does so too, so ask again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def parse_url(text: str) -> URL:
    """A SQLAlchemy URL, or a file path for SQLite. Raises SettingsError."""
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
        backend = url.get_backend_name()
        if backend == "postgres" or url.drivername == POSTGRES:
            url = url.set(drivername="postgresql+psycopg")
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise SettingsError(f"The database URL {_masked(text)!r} can't be read; {_examples()}") from error
    except ImportError as error:
        raise SettingsError(f"The driver {error.name} is missing; run: pip install 'anyloom[postgres]'.") from error
    if url.get_backend_name() not in ("sqlite", POSTGRES):
        raise SettingsError(f"A store on {url.get_backend_name()} is not supported; {_examples()}")
    if url.get_backend_name() == POSTGRES:
        _require_driver()
    return url


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise SettingsError("A store on PostgreSQL needs psycopg; run: pip install 'anyloom[postgres]'.") from error


def _examples() -> str:
    return "use a file path, sqlite:////absolute/path.db or postgresql://user:password@host/database."


def _masked(text: str) -> str:
    """The URL as it may be shown: what stands between the scheme and the @ is hidden."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}" if "@" in rest else text


@contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Turn the errors of the database called `name` into StoreError."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"The store {name} refused a row: {_first_line(error.orig)}; nothing was written.") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreError(_sentence(name, getattr(error, "orig", None) or error)) from error


def _sentence(name: str, error: BaseException) -> str:
    said = str(error).lower()
    known = {
        "not a database": "is not an Anyloom store or is damaged; check the path, or import an export anew.",
        "malformed": "is damaged; import an export into a new store.",
        "disk is full": "could not be written because the disk is full; free some space, nothing was half written.",
        "disk i/o error": "could not be written (disk I/O error); check the disk's free space and health.",
        "no space left": "could not be written because the disk is full; free some space, nothing was half written.",
        "unable to open": "can't be opened; check that the folder exists and may be written to.",
        "readonly": "may not be written to; check the permissions of the file and its folder.",
        "locked": f"is being written to by another process for over {PATIENCE:.0f} seconds; try again.",
        "connection": "can't be reached; check host, port, database, user and password.",
    }
    for clue, advice in known.items():
        if clue in said:
            return f"The store {name} {advice}"
    return f"The store {name} answered with an error: {_first_line(error)}."


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
