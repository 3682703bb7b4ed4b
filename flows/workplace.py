"""What a worker process opens once and keeps: the engine, the store, the graph. Knows no Prefect."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..anygpt_model.language_model import LanguageModel
    from ..anygpt_model.scheduler import Cancelled, OnToken
    from ..anygpt_model.values import Generation, Request, Turn
    from ..storage.store import Store

SWITCH = 0.0005
"""Seconds after which a thread lets another one have the interpreter: the decoding thread asks for it after each of its
many small steps, and Python's own 5 ms would have it wait for the items' threads longer than it computes."""
_lock = threading.Lock()
_SWITCH_BEFORE = sys.getswitchinterval()
_open: dict[tuple[str, str | None, str], Workplace] = {}


@dataclass(frozen=True)
class Workplace:
    """One engine and one store, joined by a graph."""

    engine: Engine
    store: Store
    graph: Any
    noted: Noted

    def recorded(self, turn: str) -> Turn:
        """A turn that the graph has just recorded; it is read from the store only if it was there before."""
        return self.noted.turns.pop(turn, None) or self.store.turn(turn)


def workplace(model: str, device: str | None, database: str) -> Workplace:
    """The workplace of this process for these three; opened when first asked for."""
    key = (model, device, database)
    with _lock:
        if key not in _open:
            _open[key] = _opened(*key)
            sys.setswitchinterval(SWITCH)
        return _open[key]


def close_workplaces() -> None:
    """Free every engine and store of this process."""
    with _lock:
        for place in _open.values():
            place.engine.close()
            place.store.close()
        _open.clear()
        sys.setswitchinterval(_SWITCH_BEFORE)


def _opened(model: str, device: str | None, database: str) -> Workplace:
    from ..anygpt_model.engine import load_engine
    from ..graphs.conversation import build_graph
    from ..storage.store import open_store

    store = open_store(database)
    try:
        engine = load_engine(model, device=device)
    except BaseException:
        store.close()
        raise
    noted = Noted(store)
    return Workplace(engine, store, build_graph(unwatched(engine), cast(Any, noted)), noted)


class Noted:
    """The store, and at hand the turns that were recorded through here: whoever asked for one need not load it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.turns: dict[str, Turn] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def record(self, turn: Turn) -> Turn:
        """As the store's own."""
        kept = self._store.record(turn)
        self.turns[kept.id] = kept
        return kept


class Unwatched:
    """A language model of which nobody looks at single ids: passing each on would wake its caller's thread for it, and
    so many threads in turn that the decoding one waits longer than it computes."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None, cancelled: Cancelled | None = None
    ) -> list[Generation]:
        """As the model's own, without on_token."""
        return self._model.generate(requests, None, cancelled)


def unwatched(engine: Engine) -> Engine:
    """The same open engine for a batch: its replies are not streamed."""
    same = copy.copy(engine)
    same.language_model = cast(Any, Unwatched(engine.language_model))
    return same
