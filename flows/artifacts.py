"""What Prefect's pages show of a conversion: how far it is, its counts, what failed and why, a few results.

Outside a flow run there is no page, and nothing is shown. A page that can't be written never fails the work.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext

from .planning import Order

log = logging.getLogger(__name__)

SHOWN = 20
EVERY = 2.0
"""Seconds between two moves of the progress: each is a request to the server."""


def show_progress(given: Order) -> Callable[[int], None] | None:
    """A progress artifact, and how to move it (percent); None outside a run."""
    if FlowRunContext.get() is None:
        return None
    artifact = create_progress_artifact(progress=0.0, description=f"{given.source} to {given.asked.to}")
    last, shown = 0, monotonic()

    def moved(percent: int) -> None:
        nonlocal last, shown
        if percent > last and (percent == 100 or monotonic() - shown > EVERY):
            last, shown = percent, monotonic()
            _tried(lambda: update_progress_artifact(artifact_id=artifact, progress=float(percent)))  # type: ignore[arg-type]

    return moved


def show_summary(given: Order, manifest: Sequence[dict[str, Any]]) -> None:
    """Counts, the first failures with their reasons, and the first results."""
    if FlowRunContext.get() is None:
        return
    counts = Counter(row["status"] for row in manifest)
    table = [{"status": status, "items": number} for status, number in sorted(counts.items())]
    _tried(lambda: create_table_artifact(table=table, key=f"{given.verb}-summary", description=given.out))
    _tried(
        lambda: create_markdown_artifact(markdown=gallery(manifest), key=f"{given.verb}-results", description=given.out)
    )


def gallery(manifest: Sequence[dict[str, Any]]) -> str:
    """The first failures and the first results, as Markdown."""
    failed = [row for row in manifest if row["status"] == "failed"][:SHOWN]
    done = [row for row in manifest if row["status"] == "done"][:SHOWN]
    lines = ["| item | reason |", "|---|---|", *(f"| {_cell(row['name'])} | {_cell(row['error'])} |" for row in failed)]
    lines = lines if failed else ["Nothing failed."]
    lines += ["", "| item | reply | files |", "|---|---|---|"]
    for row in done:
        files = ", ".join(made["file"] for made in row["outputs"])
        lines.append(f"| {_cell(row['name'])} | {_cell(row['text'])} | {files} |")
    return "\n".join(lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")[:200]


def _tried(show: Callable[[], Any]) -> None:
    try:
        show()
    except Exception as error:
        # The page is a view of the work; whatever keeps it from being written, the work goes on.
        log.warning("an artifact could not be written: %s", error)
