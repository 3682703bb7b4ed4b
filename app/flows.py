"""`anyloom flows`: what an operator schedules. The work is flows'; Prefect is imported only when called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from ..anygpt_model.errors import SettingsError


@click.group()
def flows() -> None:
    """Serve the batch flows to a Prefect server."""


@flows.command()
@click.option("--cron", metavar="LINE", help='When `convert` runs, like "0 3 * * *"; without it only when asked for.')
@click.option("--source", help="What the scheduled `convert` converts.")
@click.option("--to", metavar="MODALITY", help="What its replies must hold.")
@click.option("--out", help="Its folder for results.")
def serve(cron: str | None, **given: Any) -> None:
    """Offer the flows as deployments until stopped."""
    try:
        served = import_module("..flows.serve", __package__)
    except ModuleNotFoundError as error:
        raise SettingsError(f"Flows need {error.name}; run: pip install 'anyloom[flows]'.") from None
    served.serve(cron, {name: value for name, value in given.items() if value is not None})
