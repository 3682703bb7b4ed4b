"""What a worker process opens once and keeps: the engine, the store, and what makes turns of them. Knows no Prefect."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..graphs.side_by_side import SideBySide
    from ..storage.store import Store

QUEUE = 4096
"""Requests that may wait: here they are all this process's own, as many as its shards have in work at once."""
SWITCH = 0.0005
"""Seconds after which a thread lets another one have the interpreter: the decoding thread asks for it after each of its
many small steps, and Python's own 5 ms would have it wait for the items' threads longer than it computes."""
_lock = threading.Lock()
_SWITCH_BEFORE = sys.getswitchinterval()
_open: dict[tuple[str, str | None, str], Workplace] = {}


@dataclass(frozen=True)
class Workplace:
    """One engine and one store, joined by the graph's nodes."""

    engine: Engine
    store: Store
    side_by_side: SideBySide


def workplace(model: str, device: str | None, database: str) -> Workplace:
    """The workplace of this process for these three; opened when first asked for, with the bits and the memory that its
    machine's settings say."""
    key = (model, device, database)
    with _lock:
        if key not in _open:
            _open[key] = _opened(*key)
            sys.setswitchinterval(SWITCH)
            gc.freeze()  # what is open stays; looking through all of it takes the collector a third of a second a time
        return _open[key]


def close_workplaces() -> None:
    """Free every engine and store of this process."""
    with _lock:
        for place in _open.values():
            place.engine.close()
            place.store.close()
        _open.clear()
        sys.setswitchinterval(_SWITCH_BEFORE)
        gc.unfreeze()


def _opened(model: str, device: str | None, database: str) -> Workplace:
    from ..anygpt_model.engine import load_engine
    from ..graphs.settings import settings
    from ..graphs.side_by_side import SideBySide
    from ..storage.store import open_store

    chosen = settings()
    store = open_store(database)
    try:
        engine = load_engine(model, device=device, quantize=chosen.quantize, low_memory=chosen.low_memory, queue=QUEUE)
    except BaseException:
        store.close()
        raise
    return Workplace(engine, store, SideBySide(engine, store))
