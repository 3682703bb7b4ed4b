"""The commands' own help as one document: `python -m anyloom.app.reference > docs/commands.md` (a test compares)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from .cli import COMMANDS, cli

WIDTH: dict[str, Any] = {"max_content_width": 100, "terminal_width": 100}
HEAD = """\
# Commands

Every command's own help. `--json` prints exactly one object on stdout; progress and logs go to stderr. Exit codes:
0 done, 1 the work failed (or a replay came out different), 2 wrong use or unusable input, told in one sentence.
"""


def reference() -> str:
    """The whole document."""
    context = click.Context(cli, info_name="anyloom", help_option_names=["-h", "--help"], **WIDTH)
    sections = [HEAD]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is not None:
            sections += _sections(command, click.Context(command, context, name, **WIDTH))
    return "\n".join(sections)


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """The command's own section, then those of its subcommands."""
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _sections(inner, click.Context(inner, context, name, **WIDTH))


if __name__ == "__main__":
    sys.stdout.write(reference())
