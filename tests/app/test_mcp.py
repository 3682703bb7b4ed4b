"""The MCP server over the scripted engine, spoken to by a real client session in this process."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcp")

from mcp.shared.memory import create_connected_server_and_client_session as connected

from anyloom.anygpt_model.media import read_image, write_png
from anyloom.app.mcp import build_server
from anyloom.graphs.tool import AnyGPTTool
from anyloom.storage.store import memory_store


@pytest.fixture
def server(engine: Any) -> Any:
    return build_server(AnyGPTTool(engine=engine, store=memory_store()))


async def test_words_and_links_come_and_bytes_when_asked(server: Any) -> None:
    async with connected(server._mcp_server) as session:
        answer = await session.call_tool("anygpt", {"text": "draw", "to": "image", "seed": 1})
        words, link = answer.content
        assert words.text.startswith("here it is")
        assert (link.name, link.mimeType) == ("image", "image/png")
        assert answer.structuredContent["media"][0]["file_id"] in str(link.uri)
        medium = await session.read_resource(link.uri)
        assert read_image(b64decode(medium.contents[0].blob)).shape == (4, 8, 3)


async def test_bytes_are_kept_and_their_handle_is_understood(server: Any, engine: Any) -> None:
    picture = b64encode(write_png(np.zeros((8, 8, 3), np.uint8))).decode()
    async with connected(server._mcp_server) as session:
        handle = (await session.call_tool("keep", {"data": picture})).content[0].text
        answer = await session.call_tool("anygpt", {"text": "what is this", "media": [handle]})
        assert not answer.isError
        assert len(engine.language_model.requests) == 1


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("anygpt", {"text": 5}, "The argument 'text' of this tool can't be taken: Input should be a valid string."),
        ("keep", {}, "The argument 'data' of this tool can't be taken: Field required."),
        ("keep", {"data": "%%%"}, "The data is no base64; encode the file's bytes again."),
    ],
)
async def test_an_argument_that_cannot_be_is_one_sentence(
    server: Any, name: str, given: dict[str, Any], said: str
) -> None:
    async with connected(server._mcp_server) as session:
        answer = await session.call_tool(name, given)
        assert answer.isError
        assert answer.content[0].text == said


async def test_a_mistake_is_told_in_a_sentence(server: Any) -> None:
    async with connected(server._mcp_server) as session:
        answer = await session.call_tool("anygpt", {"text": "hello", "media": ["sha256:nothing"]})
        assert answer.isError
        assert "sha256:nothing" in answer.content[0].text
