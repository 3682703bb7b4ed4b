"""`anyloom traces`: stored turns, listed, shown, kept and erased. Replaying is in replays.py; the work is storage's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..anygpt_model.errors import AnyloomError, InputError
from . import replays
from .console import Screen
from .files import write_file
from .opening import opened_store

if TYPE_CHECKING:
    from ..anygpt_model.values import Turn
    from ..storage.store import Store

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
FILE = click.Path(path_type=Path, dir_okay=False)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@click.group()
def traces() -> None:
    """List, show, replay, verify, fork, compare and keep stored turns."""


for command in replays.COMMANDS:
    traces.add_command(command)


@traces.command("list")
@click.option("--conversation", metavar="ID", help="Only this conversation's turns.")
@click.option("--conversations", is_flag=True, help="Conversations instead of turns.")
@click.option("--search", metavar="WORDS", help="Only turns whose texts hold all these words.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@AS_JSON
def list_(conversation: str | None, conversations: bool, search: str | None, limit: int, as_json: bool) -> None:
    """The newest turns, or conversations."""
    from .views import show_conversations, show_turns

    screen = Screen(as_json)
    with opened_store() as store:
        if conversations:
            threads = store.conversations(limit)
            if as_json:
                return screen.json({"conversations": [asdict(one) for one in threads]})
            return show_conversations(screen.out, threads)
        found = store.search(search, conversation, limit) if search else store.turns(conversation, limit)
        if as_json:
            return screen.json({"turns": [asdict(turn) for turn in found]})
        return show_turns(screen.out, found)


@traces.command()
@click.argument("turn")
@click.option("--html", type=FILE, help="Write one self-contained page instead.")
@AS_JSON
def show(turn: str, html: Path | None, as_json: bool) -> None:
    """One turn in full: TURN is its id or the first 8 characters."""
    from ..storage.documents import turn_document
    from .views import show_turn

    screen = Screen(as_json)
    with opened_store() as store:
        found = store.turn(turn)
        if html is not None:
            write_file(html, _page(store, found).encode())
            screen.line(f"The page is {html}.")
        elif not as_json:
            show_turn(screen.out, found, [child.id for child in store.children(found.id)])
        if as_json:
            screen.json({**turn_document(found), "hash": found.hash})


def _page(store: Store, turn: Turn) -> str:
    """The turn's page; ids get their token strings where the model is on this machine."""
    from ..anygpt_model.checkpoints import LANGUAGE, model_folder
    from ..anygpt_model.vocabulary import Vocabulary
    from .page import turn_page

    try:
        vocabulary = Vocabulary.from_folder(model_folder(turn.model) / LANGUAGE)
        strings = [vocabulary.string(token) for token in turn.generation.ids]
    except AnyloomError:
        strings = []
    return turn_page(turn, store.get, strings, list(_tree(store, turn)))


def _tree(store: Store, turn: Turn) -> Iterator[tuple[int, str, str]]:
    """The line of turns to this one and all that follow it: (depth, id, words)."""
    line = store.lineage(turn.id)
    for depth, one in enumerate(line):
        yield depth, one.id, " ".join(part.text for part in one.request if part.text)[:60]
    waiting = [(len(line), child) for child in reversed(store.children(turn.id))]
    while waiting:
        depth, child = waiting.pop()
        yield depth, child.id, child.asked[:60]
        waiting += [(depth + 1, next_) for next_ in reversed(store.children(child.id))]


@traces.command()
@click.argument("turns", nargs=-1)
@AS_JSON
def evict(turns: tuple[str, ...], as_json: bool) -> None:
    """Drop the generated media of TURNS (of all turns if none is named); their ids make them again."""
    screen = Screen(as_json)
    with opened_store() as store:
        named = [part.media.hash for turn in turns for part in store.turn(turn).reply if part.media is not None]
        gone = store.evict(named if turns else None)
        screen.line(f"Evicted {len(gone)} media; `anyloom traces replay` makes them again.")
    if as_json:
        screen.json({"evicted": gone})


@traces.command()
@click.argument("file", type=FILE)
@click.option("--conversation", "conversations", multiple=True, metavar="ID", help="Only this one; may be repeated.")
@click.option("--redact", is_flag=True, help="Leave out everything that was said, shown or heard.")
@AS_JSON
def export(file: Path, conversations: tuple[str, ...], redact: bool, as_json: bool) -> None:
    """Write turns and their media into one archive FILE."""
    from ..storage.archive import export_archive

    screen = Screen(as_json)
    with opened_store() as store, screen.waiting("Exporting …"):
        manifest = export_archive(store, file, conversations=list(conversations) or None, redact=redact)
    screen.line(f"{manifest.turns} turns and {manifest.media} media are in {file}.")
    if as_json:
        screen.json(asdict(manifest))


@traces.command("import")
@click.argument("file", type=FILE)
@AS_JSON
def import_(file: Path, as_json: bool) -> None:
    """Read an archive FILE into the store; turns that it has are left as they are."""
    from ..storage.restoring import import_archive

    screen = Screen(as_json)
    if not file.is_file():
        raise InputError(f"{file} does not exist; give an archive that `anyloom traces export` wrote.")
    with opened_store() as store, screen.waiting("Importing …"):
        done = import_archive(store, file)
    screen.line(f"{done.turns} turns and {done.media} media were read; {done.known} turns were here already.")
    if as_json:
        screen.json(asdict(done))


@traces.command()
@click.option("--older-than", metavar="AGE", help="Turns older than this go: 30d, 12h, 8w.")
@click.option("--max-size", metavar="SIZE", help="The oldest go until the store is this small: 500M, 2G.")
@click.option("--conversation", "conversations", multiple=True, metavar="ID", help="Only of this one; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Say what would go, drop nothing.")
@AS_JSON
def prune(
    older_than: str | None, max_size: str | None, conversations: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Drop turns by age or size; what can be made again goes first."""
    screen = Screen(as_json)
    if not (older_than or max_size or conversations):
        raise InputError("Nothing says what to prune; give --older-than, --max-size or --conversation.")
    age, size = _amount(older_than, UNITS, "30d, 12h or 8w"), _amount(max_size, SIZES, "500M or 2G")
    with opened_store() as store:
        gone = store.prune(
            older_than=age,
            max_bytes=None if size is None else int(size),
            conversations=list(conversations) or None,
            dry_run=dry_run,
        )
    verb = "Would drop" if dry_run else "Dropped"
    screen.line(f"{verb} {len(gone.turns)} turns and {len(gone.media)} media, evicted {len(gone.evicted)}.")
    if as_json:
        screen.json({**asdict(gone), "dry_run": dry_run})


@traces.command()
@click.argument("turns", nargs=-1)
@click.option("--conversation", metavar="ID", help="A whole conversation.")
@AS_JSON
def delete(turns: tuple[str, ...], conversation: str | None, as_json: bool) -> None:
    """Erase the content of TURNS, or of a conversation, for good; their digests stay as tombstones."""
    screen = Screen(as_json)
    if not turns and not conversation:
        raise InputError("Nothing says what to delete; give turns or --conversation.")
    with opened_store() as store:
        erased = [*(store.erase(turns).turns if turns else ())]
        erased += store.delete(conversation).turns if conversation else ()
    screen.line(f"Erased {len(erased)} turns.")
    if as_json:
        screen.json({"erased": erased})


def _amount(text: str | None, units: dict[str, int], examples: str) -> float | None:
    """A number with a unit; None for None. Raises InputError."""
    if text is None:
        return None
    read = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]?)", text.strip().lower().removesuffix("b"))
    if read is None or read[2] not in units:
        raise InputError(f"{text!r} is no amount; write it like {examples}.")
    return float(read[1]) * units[read[2]]
