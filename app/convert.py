"""`anyloom convert`: a batch flow over many inputs. The work is flows'; Prefect is imported only here and now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..anygpt_model.errors import SettingsError
from .console import Screen


@click.command()
@click.argument("source")
@click.option("--to", required=True, metavar="MODALITY", help="What every reply must hold.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results and the manifest.")
@click.option("--text", help="What to ask of every item.")
@click.option("--seed", type=int, default=0, show_default=True, help="Every item's seed is made from this one.")
@click.option("--voice", metavar="NAME", help="A saved voice.")
@click.option("--model", metavar="NAME|FOLDER", help="A model's name or its folder [default: pocket].")
@click.option("--limit", type=int, help="At most so many items.")
@click.option("--dry-run", is_flag=True, help="Count, convert nothing.")
@click.option("--retry-failed", is_flag=True, help="Take failed items again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def convert(source: str, to: str, out: Path, as_json: bool, **options: Any) -> int:
    """Convert every item of SOURCE (a folder, glob, CSV or JSONL) into MODALITY; an interrupted run goes on."""
    screen = Screen(as_json)
    try:
        from ..flows.convert import run_convert
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"Batch conversion needs {error.name}, which is not installed; run: pip install 'anyloom[flows]'."
        ) from None
    answer = run_convert(source, to=to, out=out, quiet=as_json, **options)
    if as_json:
        screen.json(answer)
    else:
        shown = ("done", "failed", "skipped", "found", "to_do", "new", "stale", "tokens", "seconds")
        counts = ", ".join(f"{answer[name]} {name.replace('_', ' ')}" for name in shown if name in answer)
        screen.line(f"{counts}; {'nothing was converted' if answer.get('dry_run') else f'the manifest is in {out}'}.")
    return 1 if answer.get("failed") else 0
