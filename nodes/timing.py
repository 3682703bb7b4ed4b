"""What every node is wrapped in: its seconds are added to the run's timings."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from .state import Context

Node = Callable[[Any, RunnableConfig, Runtime[Context]], Any]


def timed(name: str, node: Callable[..., Any]) -> Node:
    """`node`, its update carrying {"timings": {name: seconds}}; a reset of the timings becomes their first entry."""

    def run(state: Any, config: RunnableConfig, runtime: Runtime[Context]) -> Any:
        started = perf_counter()
        update = node(state, config, runtime)
        spent = {name: perf_counter() - started}
        reset = isinstance(update.get("timings"), Overwrite)
        return {**update, "timings": Overwrite(spent) if reset else spent}

    run.__name__ = name
    return run
