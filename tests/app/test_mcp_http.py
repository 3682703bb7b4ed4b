"""`anyloom mcp --http` as a process of its own, called by the MCP client over the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

pytest.importorskip("mcp")

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from anyloom.anygpt_model.media import read_image

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
def address(tiny_folder: Path, tmp_path: Path) -> Iterator[str]:
    """Where a server over the tiny model listens; it ends at an interrupt."""
    port = free_port()
    command = [sys.executable, "-m", "anyloom", "mcp", "--http", "--port", str(port), "--model", str(tiny_folder)]
    environment = {**os.environ, "ANYLOOM_HOME": str(tmp_path), "ANYLOOM_DEVICE": "cpu"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        deadline = monotonic() + 120
        while server.poll() is None and monotonic() < deadline:
            with socket.socket() as knocking:
                if knocking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
        assert "Stopped." in said
        assert "Traceback" not in said
        assert f"http://127.0.0.1:{port}/mcp" in said


async def test_a_client_draws_reads_and_asks_again_over_http(address: str) -> None:
    async with streamable_http_client(address) as (reading, writing, _), ClientSession(reading, writing) as session:
        await session.initialize()
        assert {tool.name for tool in (await session.list_tools()).tools} == {"anygpt", "keep"}
        options = {"text": "draw", "to": "image", "seed": 1}
        answer = await session.call_tool("anygpt", options)
        assert not answer.isError
        link = next(part for part in answer.content if part.type == "resource_link")
        medium = (await session.read_resource(link.uri)).contents[0]
        assert read_image(b64decode(medium.blob)).ndim == 3
        again = await session.call_tool("anygpt", options)
        assert again.structuredContent["media"] == answer.structuredContent["media"]
        handle = answer.structuredContent["media"][0]["file_id"]
        heard = await session.call_tool("anygpt", {"text": "what is this", "media": [handle], "to": "text"})
        assert not heard.isError
        wrong = await session.call_tool("anygpt", {"text": "draw", "to": "smell"})
        assert wrong.isError
        assert "\n" not in wrong.content[0].text
    # A page in a browser whose name was bound to the loopback can't speak to it.
    asked = httpx.post(address, headers={"Host": "evil.example", "Accept": "application/json"}, json={})
    assert asked.status_code in (403, 421)
