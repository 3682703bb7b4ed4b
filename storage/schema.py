"""The version of the schema: a new database gets it, an older one is upgraded, a newer one is refused.

Alembic is imported only where there is something to upgrade, so that opening a store stays fast.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from ..anygpt_model.errors import StoreError
from .database import Database
from .tables import Fact

VERSION_TABLE = "anyloom_schema"
REVISIONS = ("0001", "0002")
"""All revisions, oldest first; the last is what this version of Anyloom works with."""
MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x616E796C6F6F6D
"""PostgreSQL's advisory lock while upgrading: "anyloom" in ASCII."""


def ensure(database: Database) -> None:
    """Bring the database to the newest revision. Raises StoreError for a newer one, or somebody else's tables."""
    with database.reading() as connection:
        found = current(connection)
    if found != REVISIONS[-1]:
        with database.writing() as connection:
            upgrade(connection, database)


def identity(database: Database) -> str:
    """The name that the store got when it was made: a copy of the database keeps it."""
    with database.reading() as connection:
        return str(connection.scalar(select(Fact.value).where(Fact.name == "store")))


def current(connection: Connection) -> str | None:
    """The revision of the database, None if it has none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()
    return None if row is None else str(row[0])


def upgrade(connection: Connection, database: Database, to: str = "head") -> None:
    """Run what is missing up to revision `to`, in the transaction of `connection`; other processes wait meanwhile."""
    if database.postgres:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    found = current(connection)
    if found == REVISIONS[-1]:
        return
    if found is not None and found not in REVISIONS:
        raise StoreError(
            f"The store {database.name} has schema {found}, made by a newer Anyloom than this one, which knows "
            f"schemas up to {REVISIONS[-1]}; upgrade Anyloom or open another store."
        )
    if found is None and inspect(connection).has_table("turns"):
        raise StoreError(
            f"The database {database.name} holds a table named turns that Anyloom did not make; give the store a "
            "database or a schema of its own."
        )
    _run(connection, to)


def _run(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
