"""The scripted engine of the graph's tests, and a keeper that is a handful of dictionaries."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyloom.anygpt_model.errors import StoreError, UnknownName
from anyloom.anygpt_model.values import Media, Turn
from anyloom.nodes.state import Context

_SPEC = importlib.util.spec_from_file_location("anyloom_fakes", Path(__file__).parents[1] / "graphs" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_FAKES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FAKES)
vocabulary, engine = _FAKES.vocabulary, _FAKES.engine


class Shelf:
    """Blobs, Memo, Turns and Voices in dictionaries: all that a node may ask of a store."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytes] = {}
        self.media: dict[str, Media] = {}
        self.memo: dict[tuple[str, str], Any] = {}
        self.made: dict[tuple[bytes, str, int], str] = {}
        self.kept: dict[str, Turn] = {}
        self.voices: dict[str, Media] = {}

    def put(self, data: bytes, media: Media) -> Media:
        self.bytes[media.hash], self.media[media.hash] = data, media
        return media

    def get(self, hash: str) -> bytes:
        if hash not in self.bytes:
            raise StoreError(f"{hash} is missing.")
        return self.bytes[hash]

    def describe(self, hash: str) -> Media:
        if hash not in self.media:
            raise UnknownName(f"There is no medium {hash}.")
        return self.media[hash]

    def codes(self, media: str, fingerprint: str) -> Any:
        return self.memo.get((media, fingerprint))

    def keep_codes(self, media: str, fingerprint: str, codes: Any) -> None:
        self.memo[media, fingerprint] = codes

    def decoded(self, codes: Any, fingerprint: str, seed: int) -> Media | None:
        return self.media.get(self.made.get((codes.tobytes(), fingerprint, seed), ""))

    def keep_decoded(self, codes: Any, fingerprint: str, seed: int, media: str) -> None:
        self.made[codes.tobytes(), fingerprint, seed] = media

    def record(self, turn: Turn) -> Turn:
        known = next((one for one in self.kept.values() if one.run == turn.run), None)
        return known or self.kept.setdefault(turn.id, replace(turn, hash="sha256:turn"))

    def turn(self, id: str) -> Turn:
        if id not in self.kept:
            raise UnknownName(f"There is no turn {id}.")
        return self.kept[id]

    def lineage(self, id: str) -> Sequence[Turn]:
        turn = self.turn(id)
        return [*(self.lineage(turn.parent) if turn.parent else []), turn]

    def tip(self, conversation: str) -> Turn | None:
        return next((turn for turn in reversed(self.kept.values()) if turn.conversation == conversation), None)

    def voice(self, name: str) -> Media:
        if name not in self.voices:
            raise UnknownName(f"There is no voice named {name!r}.")
        return self.voices[name]


@pytest.fixture
def keeper() -> Shelf:
    return Shelf()


@pytest.fixture
def runtime() -> Any:
    """What LangGraph hands to a node: the call's options, and a stream whose events are kept."""

    def made(**options: Any) -> Any:
        events: list[Any] = []
        return SimpleNamespace(context=Context(**options), stream_writer=events.append, events=events)

    return made
