"""`anyloom flows`: what an operator schedules. The work is flows'; Prefect is imported only when called."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ..anygpt_model.errors import SettingsError
from .console import Screen
from .convert import tell


@click.group()
def flows() -> None:
    """Serve the batch flows to a Prefect server; tokenize media for training."""


@flows.command()
@click.option("--cron", metavar="LINE", help='When `convert` runs, like "0 3 * * *"; without it only when asked for.')
@click.option("--source", help="What the scheduled `convert` converts.")
@click.option("--to", metavar="MODALITY", help="What its replies must hold.")
@click.option("--out", help="Its folder for results.")
def serve(cron: str | None, **given: Any) -> None:
    """Offer the flows as deployments until stopped."""
    _imported("..flows.serve").serve(cron, {name: value for name, value in given.items() if value is not None})


@flows.command()
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the shards of codes.")
@click.option("--model", metavar="NAME|FOLDER", help="A model's name or its folder [default: pocket].")
@click.option("--limit", type=int, help="At most so many items.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Media a file of codes holds.")
@click.option("--dry-run", is_flag=True, help="Count, tokenize nothing.")
@click.option("--retry-failed", is_flag=True, help="Take failed items again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tokenize(source: str, out: Path, as_json: bool, **options: Any) -> int:
    """Tokenize every medium of SOURCE into shards of codes; an interrupted run goes on."""
    screen = Screen(as_json)
    answer = _imported("..flows.tokenize").run_tokenize(source, out=out, quiet=as_json, **options)
    tell(screen, answer, out, as_json)
    return 1 if answer.get("reasons") else 0


def _imported(name: str) -> Any:
    try:
        return import_module(name, __package__)
    except ModuleNotFoundError as error:
        raise SettingsError(f"Flows need {error.name}; run: pip install 'anyloom[flows]'.") from None
