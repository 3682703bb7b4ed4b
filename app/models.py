"""`anyloom models`: list what can be opened, fetch published weights, check a folder. The work is anygpt_model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..anygpt_model.errors import AnyloomError, SettingsError
from .console import Screen

if TYPE_CHECKING:
    from rich.table import Table

    from ..anygpt_model.checking import Row
    from ..anygpt_model.hub import Plan

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def models() -> None:
    """List models, fetch published weights, check a folder."""


@models.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """The models that have a name, and whether they are on this machine."""
    from ..anygpt_model.checkpoints import POCKET, PUBLISHED, model_folder

    screen = Screen(as_json)
    found: dict[str, str | None] = {}
    for name in (POCKET, *PUBLISHED):
        try:
            found[name] = str(model_folder(name))
        except AnyloomError:
            found[name] = None
    for name, folder in found.items():
        screen.line(f"{name:12} {folder or 'not on this machine'}")
    if as_json:
        screen.json({"models": found})


@models.command()
@click.argument("name")
@click.option("--convert/--no-convert", default=True, help="Write safetensors of pickles first, in another process.")
@AS_JSON
def check(name: str, convert: bool, as_json: bool) -> int:
    """Look at a model (its NAME or folder): every expected file, its tensors, and the fingerprints of its parts."""
    from ..anygpt_model.checking import check as looked
    from ..anygpt_model.checkpoints import fingerprints, model_folder

    screen = Screen(as_json)
    folder = model_folder(name)
    with screen.waiting(f"Reading {folder} …"):
        rows = looked(folder, converting=convert)
        prints = fingerprints(folder)
    sound = all(row.ok for row in rows)
    if as_json:
        found = [asdict(row) for row in rows]
        screen.json({"folder": str(folder), "ok": sound, "files": found, "fingerprints": prints})
    else:
        screen.out.print(_table(rows))
        for part, fingerprint in prints.items():
            screen.line(f"{part:10} {fingerprint}")
    return 0 if sound else 1


def _table(rows: Sequence[Row]) -> Table:
    from rich.table import Table

    table = Table("part", "file", "tensors", "unexpected", "type", "", box=None, header_style="dim")
    for row in rows:
        verdict = "ok" if row.ok else row.sentence or "not ok"
        counts = f"{row.found} of {row.expected}" if row.expected or row.found else ""
        table.add_row(row.part, row.file, counts, str(row.unexpected or ""), row.dtype, verdict)
    return table


def agreed(plan: Plan) -> bool:
    """Whether the user wants `plan`, which was shown. Raises SettingsError where there is no answer."""
    try:
        return click.confirm("Fetch all of it?", err=True)
    except click.Abort:
        raise SettingsError(f"Nobody agreed to fetching {plan.name}; answer y, or give --yes.") from None


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; sizes and licences are shown all the same.")
@AS_JSON
def fetch(name: str, yes: bool, as_json: bool) -> None:
    """Get published weights (anygpt-chat or anygpt-base) from the hub, checked and converted once."""
    from ..anygpt_model.hub import fetch as fetched

    screen = Screen(as_json)
    folder = fetched(name, tell=screen.remark, agree=None if yes else agreed)
    screen.line(f"{name} is in {folder}.")
    if as_json:
        screen.json({"model": name, "folder": str(folder)})
