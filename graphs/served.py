"""The graph as a server opens it (langgraph.json names it): model and store come from the settings, once a process."""

from __future__ import annotations

from functools import cache

from ..anygpt_model.engine import load_engine
from ..storage.store import open_store
from .conversation import Graph, build_graph
from .settings import settings


@cache
def graph() -> Graph:
    """The compiled graph over the model and the database that ANYLOOM_MODEL and ANYLOOM_DATABASE_URL name."""
    chosen = settings()
    engine = load_engine(chosen.model, device=chosen.device)
    return build_graph(engine, open_store(chosen.database_url), urls=chosen.urls)
