"""What a worker process opens once and keeps: the engine, the store, the graph. Knows no Prefect."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..storage.store import Store

_lock = threading.Lock()
_open: dict[tuple[str, str | None, str], Workplace] = {}


@dataclass(frozen=True)
class Workplace:
    """One engine and one store, joined by a graph."""

    engine: Engine
    store: Store
    graph: Any


def workplace(model: str, device: str | None, database: str) -> Workplace:
    """The workplace of this process for these three; opened when first asked for."""
    key = (model, device, database)
    with _lock:
        if key not in _open:
            _open[key] = _opened(*key)
        return _open[key]


def close_workplaces() -> None:
    """Free every engine and store of this process."""
    with _lock:
        for place in _open.values():
            place.engine.close()
            place.store.close()
        _open.clear()


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
    return Workplace(engine, store, build_graph(engine, store))
