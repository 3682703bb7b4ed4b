"""`anyloom flows`: what an operator schedules. The work is flows'; Prefect is imported only when called."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ..anygpt_model.errors import SettingsError
from .console import Screen
from .convert import SHOWN, tell


@click.group()
def flows() -> None:
    """Serve the batch flows to a Prefect server; tokenize media for training; replay stored turns."""


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


@flows.command()
@click.option("--mode", default="verify", show_default=True, help="verify: redo the decisions; recorded: the media.")
@click.option("--model", metavar="NAME|FOLDER", help="Replay its turns, with it [default: pocket].")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many turns, newest first.")
@click.option(
    "--max-drifted-share", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="More end with code 1."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reverify(as_json: bool, mode: str, **options: Any) -> int:
    """Replay stored turns, as after an upgrade, and say which come out different."""
    screen = Screen(as_json)
    answer = _imported("..flows.reverify").run_reverify(mode, quiet=as_json, **options)
    changed = answer["drifted"]
    if as_json:
        screen.json(answer)
    else:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in answer["verdicts"].items())
        screen.line(f"{answer['turns']} turns replayed{': ' if counts else ''}{counts}.")
        for finding in changed[:SHOWN]:
            screen.line(f"{finding['turn']} is {finding['verdict']}: {finding['detail'] or finding['changed']}")
    return 1 if changed and len(changed) / answer["turns"] > options["max_drifted_share"] else 0


def _imported(name: str) -> Any:
    try:
        return import_module(name, __package__)
    except ModuleNotFoundError as error:
        raise SettingsError(f"Flows need {error.name}; run: pip install 'anyloom[flows]'.") from None
