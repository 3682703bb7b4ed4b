"""Upgrading a database with data in it loses nothing; what can't be opened says so in one sentence."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from store_samples import make_turn

from anyloom.anygpt_model.errors import AnyloomError, SettingsError, StoreError
from anyloom.storage import search
from anyloom.storage.database import Database, parse_url
from anyloom.storage.doctor import examine
from anyloom.storage.documents import chain, digest
from anyloom.storage.rows import Link, insert_content, insert_turn, seconds_of
from anyloom.storage.schema import REVISIONS, current, upgrade
from anyloom.storage.store import Store, open_store
from anyloom.storage.tables import Base
from anyloom.storage.turns import count_references, touch_conversations


def _first_revision(url: str) -> Database:
    database = Database(parse_url(url))
    with database.writing() as connection:
        upgrade(connection, database, REVISIONS[0])
    return database


def test_an_old_database_with_data_is_upgraded(url: str, tmp_path: Path) -> None:
    database = _first_revision(url)
    turns = [make_turn(f"needle {n}", conversation=f"c{n}") for n in range(3)]
    with database.writing() as connection:
        assert not inspect(connection).has_table("jobs")
        for turn in turns:
            touch_conversations(connection, [(turn.conversation, 1.0)])
            content = digest(turn)
            number = insert_turn(connection, turn, Link(content, chain(content, None), seconds_of(turn.created)))
            count_references(connection, turn)
            insert_content(connection, number, turn)
    database.close()
    with open_store(url, home=tmp_path, blobs=str(tmp_path / "blobs")) as store:
        assert [one.id for one in store.search("needle")] == [turn.id for turn in reversed(turns)]
        assert store.turn(turns[0].id).generation == turns[0].generation
        assert store.jobs.open("j", {}).number == 1
        assert store.verify_chain().holds
        assert examine(store, grace=0.0).clean
        store.record(make_turn("new"))


def test_models_and_migrations_agree(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "anyloom_schema", "compare_type": True})
        differences = [one for one in compare_metadata(context, Base.metadata) if "search" not in str(one)]
        assert differences == []
        assert current(connection) == REVISIONS[-1]


def test_downgrade_and_back(url: str, tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from anyloom.storage.schema import MIGRATIONS

    blobs = str(tmp_path / "blobs")
    with open_store(url, home=tmp_path, blobs=blobs) as store:
        turn = store.record(make_turn("needle"))
        with store.database.writing() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.downgrade(config, REVISIONS[0])
    with open_store(url, home=tmp_path, blobs=blobs) as store:
        assert [one.id for one in store.search("needle")] == [turn.id]


def test_every_revision_is_listed() -> None:
    from anyloom.storage.schema import MIGRATIONS

    files = sorted(path.name for path in (MIGRATIONS / "versions").glob("rev_*.py"))
    assert [name.split("_")[1] for name in files] == list(REVISIONS)


def test_processes_that_open_an_empty_database_at_once(url: str, tmp_path: Path) -> None:
    def open_and_close() -> None:
        open_store(url, blobs=str(tmp_path / "blobs")).close()

    opening = [multiprocessing.get_context("fork").Process(target=open_and_close) for _ in range(8)]
    for process in opening:
        process.start()
    for process in opening:
        process.join()
    assert [process.exitcode for process in opening] == [0] * 8


def test_a_newer_schema_is_refused(url: str, tmp_path: Path) -> None:
    blobs = str(tmp_path / "blobs")
    with open_store(url, home=tmp_path, blobs=blobs) as store, store.database.writing() as connection:
        connection.execute(text("UPDATE anyloom_schema SET version_num = '9999'"))
    with pytest.raises(StoreError, match="schema 9999, made by a newer Anyloom"):
        open_store(url, home=tmp_path, blobs=blobs)


def test_somebody_elses_tables_are_left_alone(url: str, tmp_path: Path) -> None:
    database = Database(parse_url(url))
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE turns (id INTEGER)"))
    database.close()
    with pytest.raises(StoreError, match="that Anyloom did not make"):
        open_store(url, home=tmp_path)


def _corrupt_header(path: Path) -> str:
    path.write_bytes(b"this is a text file, not a database" * 100)
    return str(path)


def _corrupt_pages(path: Path) -> str:
    with open_store(path) as store:
        store.record(make_turn())
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'generations'").fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(bytes(data))
    return str(path)


def _folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def _below_a_file(path: Path) -> str:
    path.write_text("a file")
    return str(path / "below" / "store.db")


UNUSABLE = {
    "no database": (_corrupt_header, "is not an Anyloom store or is damaged"),
    "damaged pages": (_corrupt_pages, "damaged"),
    "a folder": (_folder, "can't be opened"),
    "below a file": (_below_a_file, "can't be made"),
    "no URL": (lambda path: "://", "can't be read"),
    "unknown scheme": (lambda path: "nosuch://host/db", "can't be read"),
    "unsupported": (lambda path: "mysql://user:geheim@host/db", "not supported|can't be read|missing"),
    "nobody listens": (lambda path: "postgresql://user:geheim@127.0.0.1:1/db", "can't be reached"),
}


def _use(url: str, home: Path) -> None:
    with open_store(url, home=home) as store:
        store.turns(limit=1000)
        store.verify_chain()


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_cannot_be_opened_says_so_in_one_sentence(what: str, tmp_path: Path) -> None:
    make, said = UNUSABLE[what]
    url = make(tmp_path / "store.db")
    with pytest.raises((StoreError, SettingsError), match=said) as caught:
        _use(url, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "geheim" not in message


def test_a_damaged_database_is_named_by_the_doctor(tmp_path: Path) -> None:
    with open_store(_corrupt_pages(tmp_path / "store.db")) as store:
        report = examine(store)
    assert [one.kind for one in report.findings] == ["damaged database"]
    assert not report.healthy


def test_errors_are_of_the_tree() -> None:
    with pytest.raises(AnyloomError) as caught:
        open_store("http://example.org/x")
    assert caught.value.exit_code == 2


def test_search_index_matches_its_migration(store: Store) -> None:
    with store.database.writing() as connection:
        search.reindex(connection)
    assert examine(store, grace=0.0).clean
