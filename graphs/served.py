"""The graph as a server opens it (langgraph.json names it): model and store come from the settings, once a process.

Importing this module opens the model. A server imports in a thread that may block, and calls a factory in its event
loop, where the first import of a tensor library would be stopped half-way.
"""

from __future__ import annotations

from ..anygpt_model.engine import load_engine
from ..storage.store import open_store
from .conversation import Graph, build_graph
from .settings import settings


def opened() -> Graph:
    """The compiled graph over the model and the database that ANYLOOM_MODEL and ANYLOOM_DATABASE_URL name."""
    chosen = settings()
    engine = load_engine(chosen.model, device=chosen.device, quantize=chosen.quantize, low_memory=chosen.low_memory)
    return build_graph(engine, open_store(chosen.database_url), urls=chosen.urls)


graph = opened()
