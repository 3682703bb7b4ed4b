"""Who watches a batch: how far it is goes to the terminal, what came of it to the caller. Knows no Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

Answer = dict[str, Any]


@dataclass
class Watcher:
    """Is told how far the work is, and its answer; this one only remembers."""

    answer: Answer = field(default_factory=dict)

    def say(self, what: str) -> None:
        """What runs now."""

    def moved(self, done: int, failed: int, total: int) -> None:
        """How many items of this run are done and failed, of how many."""


@dataclass
class Terminal(Watcher):
    """Shows a bar with items done, failed, a second, and the time left, on stderr."""

    _bar: Any = None
    _task: Any = None
    _doing: str = "converting"
    _began: float = field(default_factory=monotonic)

    def say(self, what: str) -> None:
        """Show what runs before there is anything to count."""
        self._bar.update(self._task, description=what)

    def moved(self, done: int, failed: int, total: int) -> None:
        """Move the bar."""
        rate = (done + failed) / max(monotonic() - self._began, 1e-3)
        about = {"completed": done + failed, "total": total, "failed": failed, "rate": rate}
        self._bar.update(self._task, description=self._doing, **about)


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher:
    """Who watches the work of this context; one that only remembers, where nobody does."""
    return _watcher.get() or Watcher()


@contextmanager
def watched(quiet: bool, doing: str = "converting") -> Iterator[Watcher]:
    """Have the work inside watched: by the terminal, which calls it `doing`, or quietly."""
    if quiet:
        with _watching(Watcher()) as silent:
            yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counted = (MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed, {task.fields[rate]:.2f} a second"))
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, failed=0, rate=0.0)
        terminal = Terminal(_bar=bar, _task=task, _doing=doing)
        with _watching(terminal):
            yield terminal


@contextmanager
def _watching(watcher: Watcher) -> Iterator[Watcher]:
    token = _watcher.set(watcher)
    try:
        yield watcher
    finally:
        _watcher.reset(token)
