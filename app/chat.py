"""`anyloom chat`: a conversation in the terminal, turn after turn over one open engine. Knows no graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..anygpt_model.errors import AnyloomError, InputError
from .console import Screen
from .files import writable_folder
from .opening import opened_engine, opened_store
from .say import Input, asking, out_folder, read_inputs, written

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..storage.store import Store
    from .turns import Asker

HELP = """\
/image FILE, /speech FILE, /music FILE, /audio FILE   add a file to the next message
/to MODALITY    what replies must hold; /to alone leaves it to the model
/new            begin another conversation
/help, /quit    (an empty line sends what was added)"""
FILES = ("image", "speech", "music", "audio")


@click.command()
@asking
def chat(to: str | None, out: Path | None, model: str | None, **given: Any) -> None:
    """A conversation in the terminal; /help lists what else can be typed."""
    screen = Screen()
    folder = writable_folder(out_folder(out))
    with opened_store() as store:
        from .turns import Asker

        asker = Asker(store, screen, to, given)
        asker.check(model)
        engine = opened_engine(screen, model, given["quantize"], given["low_memory"])
        try:
            screen.remark("/help lists what can be typed; /quit ends.")
            Talk(asker, engine, store, folder, screen).run()
        finally:
            engine.close()


class Talk:
    """One conversation: lines in, turns out. A mistake is told and the talk goes on."""

    def __init__(self, asker: Asker, engine: Engine, store: Store, folder: Path, screen: Screen) -> None:
        self._asker = asker
        self._engine = engine
        self._store = store
        self._folder = folder
        self._screen = screen
        self._waiting: list[Input] = []

    def run(self) -> None:
        """Read lines until /quit or the end of the input."""
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return
            if line == "/quit":
                return
            try:
                self._take(line)
            except AnyloomError as error:
                self._screen.remark(str(error))

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            self._command(*line[1:].partition(" ")[::2])
        elif line or self._waiting:
            self._send(line)

    def _send(self, words: str) -> None:
        inputs, self._waiting = self._waiting, []
        turn = self._asker.ask(self._engine, words, inputs)
        written(turn, self._store, self._folder, self._screen)
        self._asker.follow(turn)

    def _command(self, name: str, value: str) -> None:
        value = value.strip()
        if name in FILES and value:
            paths = {kind: (Path(value).expanduser(),) if kind == name else () for kind in FILES}
            self._waiting += read_inputs(**paths)
        elif name == "to":
            self._asker.wish(value or None)
        elif name == "new":
            self._asker.context = replace(self._asker.context, conversation=None)
        elif name == "help":
            self._screen.remark(HELP)
        else:
            raise InputError(f"/{name} is not known here; /help lists what is.")
