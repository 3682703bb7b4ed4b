"""`anyloom mcp`: the tool as an MCP server, over stdio, or over streamable HTTP on this machine alone.

Answers hold words and links; the bytes behind a link are read as a resource when a client asks. Adds nothing to the
tool.
"""

from __future__ import annotations

import binascii
import logging
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import click
from pydantic import AnyUrl, ValidationError

from ..anygpt_model.errors import AnyloomError, MediaError, SettingsError
from .console import Screen
from .opening import opened_engine, opened_store

try:
    from anyio import ClosedResourceError
    from mcp.server.fastmcp import FastMCP
    from mcp.server.fastmcp.exceptions import ToolError
    from mcp.types import CallToolResult, ResourceLink, TextContent
except ModuleNotFoundError as missing:
    raise SettingsError(f"The MCP server needs {missing.name}; run: pip install 'anyloom[mcp]'.") from None

if TYPE_CHECKING:
    from ..graphs.tool import AnyGPTTool

SCHEME = "anyloom://media/"
"""What a link to a kept medium begins with; its hash follows."""


@click.command()
@click.option("--http", is_flag=True, help="Streamable HTTP on the loopback instead of stdio.")
@click.option("--port", type=click.IntRange(1, 65535), default=8765, show_default=True, help="Of --http.")
@click.option("--model", metavar="NAME|FOLDER", help="A model's name or its folder [default: pocket].")
def mcp(http: bool, port: int, model: str | None) -> None:
    """Serve the tool to any MCP client."""
    screen = Screen(quiet=True)
    with opened_store() as store:
        engine = opened_engine(screen, model)
        try:
            from ..graphs.tool import AnyGPTTool

            server = build_server(AnyGPTTool(engine=engine, store=store), port)
            if http:
                logging.getLogger("mcp.server.streamable_http").addFilter(_worth_telling)
                screen.remark(f"http://127.0.0.1:{port}/mcp")
            server.run("streamable-http" if http else "stdio")
            if http:
                raise click.Abort  # only an interrupt ends it, which asyncio swallows if all has ended before it looks
        finally:
            engine.close()


def _worth_telling(record: logging.LogRecord) -> bool:
    """A client that hangs up is no error of the server's."""
    return not (record.exc_info and isinstance(record.exc_info[1], ClosedResourceError))


class Server(FastMCP):
    """Answers a mistaken call with one sentence: the library's have several lines and names of its own."""

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """The tool's answer. Raises ToolError, which a client gets as an answer too."""
        from ..graphs.tool import mistaken

        try:
            return await super().call_tool(name, arguments)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(mistaken(error.__cause__)) from None
            if isinstance(error.__cause__, AnyloomError):
                raise ToolError(str(error.__cause__)) from None
            raise


def build_server(tool: AnyGPTTool, port: int = 8765) -> FastMCP:
    """The server over `tool`."""
    server = Server("anyloom", host="127.0.0.1", port=port, log_level="WARNING")

    @server.tool(description=tool.description)
    async def anygpt(
        text: str = "",
        media: list[str] | None = None,
        to: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        max_seconds: float | None = None,
        max_segments: int | None = None,
    ) -> CallToolResult:
        given: dict[str, Any] = {"text": text, "media": media or [], "to": to, "voice": voice, "seed": seed}
        given |= {"max_seconds": max_seconds, "max_segments": max_segments}
        answer = await tool.ainvoke({"type": "tool_call", "id": "mcp", "name": tool.name, "args": given})
        return _result(answer)

    @server.tool(description="Keep a picture or a sound (base64 of its file's bytes); returns its handle.")
    def keep(data: str, modality: str | None = None) -> str:
        from ..graphs.handles import to_block

        try:
            content = b64decode(data, validate=True)
        except binascii.Error:
            raise MediaError("The data is no base64; encode the file's bytes again.") from None
        return str(to_block(tool.keeper, content, modality)["file_id"])

    @server.resource(SCHEME + "{handle}", mime_type="application/octet-stream")
    def medium(handle: str) -> bytes:
        try:
            return tool.keeper.get(handle)
        except AnyloomError as error:
            raise ValueError(str(error)) from None

    return server


def _result(answer: Any) -> CallToolResult:
    """A tool message -> words, links to media, and the artifact as structured content."""
    artifact = answer.artifact or {"media": []}
    links = [
        ResourceLink(
            type="resource_link", uri=AnyUrl(SCHEME + block["file_id"]), name=_name(block), mimeType=block["mime_type"]
        )
        for block in artifact["media"]
    ]
    said = TextContent(type="text", text=str(answer.content))
    failed = answer.status == "error"
    return CallToolResult(content=[said, *links], structuredContent=None if failed else answer.artifact, isError=failed)


def _name(block: dict[str, Any]) -> str:
    """The modality that the block is made of."""
    return str(block["extras"]["anyloom"]["modality"])
