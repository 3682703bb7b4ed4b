"""`anyloom convert`: a batch flow over many inputs. The work is flows'; Prefect is imported only here and now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..anygpt_model.errors import SettingsError
from .console import Screen

SHOWN = 3
"""Failed items whose reasons are told at once; all of them are in the manifest."""


@click.command()
@click.argument("source")
@click.option("--to", required=True, metavar="MODALITY", help="What every reply must hold.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results and the manifest.")
@click.option("--text", help="What to ask of every item.")
@click.option("--seed", type=int, default=0, show_default=True, help="Every item's seed is made from this one.")
@click.option("--voice", metavar="NAME", help="A saved voice.")
@click.option("--model", metavar="NAME|FOLDER", help="A model's name or its folder [default: pocket].")
@click.option("--max-tokens", type=int, help="At most so many ids a reply.")
@click.option("--max-seconds", type=float, help="At most so many seconds of sound a reply.")
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS", help="A table's column that serves as ours.")
@click.option("--limit", type=int, help="At most so many items.")
@click.option("--dry-run", is_flag=True, help="Count, convert nothing.")
@click.option("--retry-failed", is_flag=True, help="Take failed items again.")
@click.option("--only-stale", is_flag=True, help="Do again what changed, leave new inputs for later.")
@click.option("--item-timeout", type=float, metavar="SECONDS", help="An item that takes longer fails.")
@click.option("--stop-after", type=float, metavar="SECONDS", help="Begin no item after that; the next run goes on.")
@click.option("--max-failed-share", type=click.FloatRange(0, 1), default=1.0, help="The run fails if more items did.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def convert(source: str, to: str, out: Path, as_json: bool, columns: tuple[str, ...], **options: Any) -> int:
    """Convert every item of SOURCE (a folder, glob, CSV or JSONL) into MODALITY; an interrupted run goes on."""
    screen = Screen(as_json)
    try:
        from ..flows.convert import run_convert
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"Batch conversion needs {error.name}, which is not installed; run: pip install 'anyloom[flows]'."
        ) from None
    named = dict(mapped(column) for column in columns)
    answer = run_convert(source, to=to, out=out, quiet=as_json, columns=named, **options)
    tell(screen, answer, out, as_json)
    return 1 if answer.get("reasons") else 0


def mapped(column: str) -> tuple[str, str]:
    """ "OURS=THEIRS" as a pair. Raises SettingsError."""
    ours, equals, theirs = column.partition("=")
    if not (ours and equals and theirs):
        raise SettingsError(f"--column {column} came; write it as OURS=THEIRS, like text=question.")
    return ours, theirs


def tell(screen: Screen, answer: dict[str, Any], out: Path, as_json: bool) -> None:
    """What a batch flow came to, as JSON or in a sentence, and the first reasons of what failed."""
    if as_json:
        screen.json(answer)
        return
    named = ("done", "failed", "skipped", "left", "found", "to_do", "new", "stale", "tokens", "seconds")
    counts = ", ".join(f"{answer[name]} {name.replace('_', ' ')}" for name in named if answer.get(name) is not None)
    screen.line(f"{counts}; {'nothing was converted' if answer.get('dry_run') else f'the manifest is in {out}'}.")
    reasons = list((answer.get("reasons") or {}).items())
    for name, reason in reasons[:SHOWN]:
        screen.line(f"{name} failed: {reason}")
    if len(reasons) > SHOWN:
        screen.line(f"{len(reasons) - SHOWN} more failed; the manifest has their reasons.")
