"""Another process, another language: the tool over MCP. The server is started here and spoken to over stdio."""

import asyncio
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def talk(model: str) -> tuple[str, int]:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "anyloom", "mcp", "--model", model], env=dict(os.environ)
    )
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        answer = await session.call_tool("anygpt", {"text": "draw a red apple", "to": "image", "seed": 1})
        words, link = answer.content[0].text, answer.content[1]
        medium = await session.read_resource(link.uri)  # bytes come only when asked for
        return words, len(medium.contents[0].blob)


def main(model: str = "pocket") -> tuple[str, int]:
    words, size = asyncio.run(talk(model))
    print(words, f"{size} characters of base64", sep="\n")
    return words, size


if __name__ == "__main__":
    main(*sys.argv[1:])
