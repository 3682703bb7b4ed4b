"""What commands open: the settings, the store, the engine, each shown while it takes time. Heavy imports happen here.

The order is cheap to dear, so that a wrong name is refused before weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .console import Screen

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine
    from ..storage.store import Store


@contextmanager
def opened_store() -> Iterator[Store]:
    """The store that the settings name, closed afterwards."""
    from ..graphs.settings import settings
    from ..storage.store import open_store

    with open_store(settings().database_url) as store:
        yield store


def opened_engine(
    screen: Screen, model: str | None = None, quantize: str | None = None, low_memory: bool = False
) -> Engine:
    """The engine of `model` (a name or folder); what is not given the settings say.

    Raises UnknownName, CheckpointError, SettingsError.
    """
    from ..graphs.settings import settings

    chosen = settings()
    name = model or chosen.model
    with screen.waiting(f"Opening the model {name} …"):
        from ..anygpt_model.engine import load_engine

        return load_engine(
            name,
            device=chosen.device,
            quantize=quantize or chosen.quantize,
            low_memory=low_memory or chosen.low_memory,
        )
