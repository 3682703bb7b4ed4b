"""A real cron: a local Prefect server, `anyloom flows serve`, and a conversion that nobody started by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

pytest.importorskip("prefect")
STARTS = 180.0
"""Seconds that a server may take to start on a busy machine."""
COMES = 150.0
"""Seconds until the run of the next full minute has ended."""


def _until(done: Callable[[], bool], seconds: float, what: str) -> None:
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, f"{what} did not happen within {seconds:g} s"
        sleep(0.5)


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def local_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which a Prefect server of our own is known, with nothing of the user's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    outer = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    homes = {"PREFECT_HOME": str(tmp_path / "prefect"), "ANYLOOM_HOME": str(tmp_path / "home")}
    environment = {**outer, **quiet, **homes, "PREFECT_API_URL": address}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: _healthy(address), STARTS, "the server's start")
        yield environment
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.soak
@pytest.mark.timeout(500)
def test_a_cron_line_converts_what_lies_in_the_inbox(
    tmp_path: Path, tiny_folder: Path, local_server: dict[str, str]
) -> None:
    (tmp_path / "inbox").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "inbox" / name).write_text(f"hello {name}")
    command = [
        sys.executable, "-m", "anyloom", "flows", "serve", "--cron", "* * * * *", "--source", str(tmp_path / "inbox"),
        "--to", "text", "--out", str(tmp_path / "outbox"),
    ]  # fmt: skip
    environment = {**local_server, "ANYLOOM_MODEL": str(tiny_folder)}
    serving = subprocess.Popen(command, env=environment)
    manifest = tmp_path / "outbox" / "manifest.jsonl"
    try:
        _until(manifest.exists, COMES, "the scheduled run")
        assert serving.poll() is None
    finally:
        serving.terminate()
        serving.wait(60)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [(row["name"], row["status"]) for row in rows] == [("a.txt", "done"), ("b.txt", "done")]
