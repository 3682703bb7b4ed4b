"""What commands show: progress and remarks on stderr, the answer on stdout, JSON as exactly one object.

Knows no model and no store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import click
from rich.console import Console
from rich.status import Status

COLOURS = {"text": "default", "image": "magenta", "speech": "cyan", "music": "yellow", "": "bright_black"}
"""A modality's colour wherever spans are shown."""


class Screen:
    """The two streams of a command. `quiet` keeps stdout for one JSON object."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._status: Status | None = None
        self._column = 0

    @cached_property
    def err(self) -> Console:
        """Where progress and remarks go."""
        return Console(stderr=True, highlight=False)

    @cached_property
    def out(self) -> Console:
        """Where answers for people go."""
        return Console(highlight=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that `what` runs, until the block ends or something is said."""
        self.progress(what)
        try:
            yield
        finally:
            self.clear()

    def progress(self, what: str) -> None:
        """Say what runs now and how far it is; replaces what was said before."""
        if self._status is None:
            self.newline()
            if not self.err.is_terminal:
                return
            self._status = self.err.status(what, spinner="dots")
            self._status.start()
        else:
            self._status.update(what)

    def clear(self) -> None:
        """Take the progress line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def write(self, text: str) -> None:
        """Add `text` to the answer as it comes, without a line's end."""
        if self.quiet or not text:
            return
        self.clear()
        click.echo(text, nl=False)
        self._column = 0 if text.endswith("\n") else 1

    def line(self, text: str) -> None:
        """A whole line of the answer."""
        if not self.quiet:
            self.clear()
            self.newline()
            click.echo(text)

    def newline(self) -> None:
        """End a line that was begun."""
        if self._column:
            click.echo()
            self._column = 0

    def remark(self, text: str) -> None:
        """A line on stderr, in grey."""
        self.clear()
        self.newline()
        self.err.print(text, style="bright_black", markup=False)

    def json(self, answer: Mapping[str, Any]) -> None:
        """The one object that `--json` promises."""
        self.clear()
        click.echo(json.dumps(answer, ensure_ascii=False))
