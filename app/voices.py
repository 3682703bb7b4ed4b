"""`anyloom voices`: recordings saved under a name with the speaker's consent, for `--voice`. The work is storage's."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..anygpt_model.errors import InputError
from ..anygpt_model.values import Modality
from .console import Screen
from .files import read_file
from .opening import opened_store

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def voices() -> None:
    """Save, list and remove the voices that replies may speak with."""


@voices.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--consent", required=True, metavar="NOTE", help="Who speaks, and that they agreed to be imitated.")
@AS_JSON
def save(name: str, file: Path, consent: str, as_json: bool) -> None:
    """Save the recording FILE (three seconds or more are best) as the voice NAME."""
    from ..anygpt_model.media import Limits
    from ..nodes.ingestion import examine
    from ..nodes.options import check_length

    screen = Screen(as_json)
    if name.startswith("sha256:"):  # --voice takes that for a kept recording
        raise InputError(f"A voice can't be named {name!r}; choose a name that is no handle.")
    limits = Limits()
    data = read_file(file, limits.max_bytes)
    _, media = examine(data, limits, Modality.SPEECH)
    check_length(media.duration or 0.0)
    with opened_store() as store:
        kept = store.voices.save(name, data, media, consent)
    screen.line(f"The voice {name} is saved.")
    if as_json:
        screen.json({"voice": name, "hash": kept.hash, "seconds": kept.duration})


@voices.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """The saved voices, each with its consent note."""
    screen = Screen(as_json)
    with opened_store() as store:
        saved = store.voices.all()
    for voice in saved:
        screen.line(f"{voice.name:16} {voice.media.duration:.1f} s  {voice.created[:10]}  {voice.consent}")
    if as_json:
        shown = [{"voice": one.name, "hash": one.media.hash, "consent": one.consent} for one in saved]
        screen.json({"voices": shown})


@voices.command()
@click.argument("name")
@AS_JSON
def remove(name: str, as_json: bool) -> None:
    """Erase the voice NAME and its recording."""
    screen = Screen(as_json)
    with opened_store() as store:
        store.voices.remove(name, time.time())
    screen.line(f"The voice {name} is erased.")
    if as_json:
        screen.json({"removed": name})
