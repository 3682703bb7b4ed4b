"""`anyloom models`: list what can be opened, fetch published weights, check a folder. The work is checkpoints'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..anygpt_model.errors import AnyloomError, SettingsError, UnknownName
from .console import Screen

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
@AS_JSON
def check(name: str, as_json: bool) -> int:
    """Look at a model (its NAME or folder): layout, weights, fingerprints."""
    from ..anygpt_model.checkpoints import PARTS, fingerprints, model_folder

    screen = Screen(as_json)
    folder = model_folder(name)
    with screen.waiting(f"Reading {folder} …"):
        prints = fingerprints(folder)
        problems = _problems(folder)
    for part, print_ in prints.items():
        screen.line(f"{part:10} {print_}")
    for part in sorted(set(PARTS) - set(prints)):
        screen.line(f"{part:10} has no safetensors weights here")
    for problem in problems:
        screen.line(problem)
    if as_json:
        screen.json({"folder": str(folder), "fingerprints": prints, "problems": problems})
    return 1 if problems or set(PARTS) - set(prints) else 0


def _problems(folder: Path) -> list[str]:
    """What is wrong with the language model's files and with the weights beside it; sentences."""
    from ..anygpt_model.checkpoints import LANGUAGE, load_tensors
    from ..anygpt_model.vocabulary import Vocabulary

    found = []
    for look in (lambda: Vocabulary.from_folder(folder / LANGUAGE), lambda: load_tensors(folder / LANGUAGE)):
        try:
            look()
        except AnyloomError as error:
            found.append(str(error))
    return found


@models.command()
@click.argument("name")
@AS_JSON
def fetch(name: str, as_json: bool) -> None:
    """Get published weights (anygpt-chat or anygpt-base) from the hub, checked and converted once."""
    from ..anygpt_model.checkpoints import PUBLISHED

    if name not in PUBLISHED:
        raise UnknownName(f"There are no published weights named {name!r}; use one of {', '.join(PUBLISHED)}.")
    fetched = _fetcher()(name)
    screen = Screen(as_json)
    screen.line(f"{name} is in {fetched}.")
    if as_json:
        screen.json({"model": name, "folder": str(fetched)})


def _fetcher() -> Any:
    try:
        from ..anygpt_model.fetching import fetch as fetched
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"Fetching needs {error.name}, which is not installed; run: pip install 'anyloom[hub]'."
        ) from None
    return fetched
