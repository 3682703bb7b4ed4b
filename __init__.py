"""Anyloom: AnyGPT as a workflow graph. The public names, resolved on first use so that the import stays light."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anygpt_model.engine import Engine, load_engine
    from .anygpt_model.errors import AnyloomError
    from .graphs.chat_model import ChatAnyGPT
    from .graphs.conversation import build_graph
    from .graphs.tool import AnyGPTTool
    from .storage.store import Store, open_store

__version__ = "0.1.0"

_HOMES = {
    "Engine": "anygpt_model.engine",
    "load_engine": "anygpt_model.engine",
    "AnyloomError": "anygpt_model.errors",
    "build_graph": "graphs.conversation",
    "AnyGPTTool": "graphs.tool",
    "ChatAnyGPT": "graphs.chat_model",
    "Store": "storage.store",
    "open_store": "storage.store",
}

__all__ = ["AnyGPTTool", "AnyloomError", "ChatAnyGPT", "Engine", "Store", "build_graph", "load_engine", "open_store"]


def __getattr__(name: str) -> Any:
    """Import a public name's home when the name is first asked for."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
