"""What nodes are wrapped in: their seconds are added to the run's timings; a long one ends when its task is cancelled;
all but the first see the options that the run began with.

Knows no node's work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Overwrite

from .state import Context, options_value

Node = Callable[[Any, RunnableConfig, Runtime[Context]], Any]
GONE: ContextVar[Callable[[], bool] | None] = ContextVar("anyloom_gone", default=None)
"""Tells whether the caller of a sync run has left it."""


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


def resumable(node: Callable[..., Any]) -> Callable[..., Any]:
    """`node`, seeing the options in its state: whoever resumes a run need not know what its caller once asked for."""

    def run(state: Any, config: RunnableConfig, runtime: Runtime[Context], **more: Any) -> Any:
        if "options" in state:
            runtime = runtime.override(context=options_value(state["options"]))
        return node(state, config, runtime, **more)

    return run


class Cancellable(Runnable[Any, Any]):
    """`timed` for a node that takes `cancelled`: where its asyncio task is cancelled, the thread that does its work
    stops as well; a sync caller interrupts it directly, or by GONE.

    A Runnable of our own because a plain function can't have both a sync and an async form, and RunnableLambda would
    run as a traced chain of its own inside the node.
    """

    def __init__(self, name: str, node: Callable[..., Any]) -> None:
        self.name = name
        self._node = node

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the node in this thread."""
        gone = GONE.get()
        work: Callable[..., Any] = self._node if gone is None else partial(self._node, cancelled=gone)
        return timed(str(self.name), work)(input, config or {}, get_runtime(Context))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the node in another thread, which a cancelled task stops."""
        stop = threading.Event()
        work = timed(str(self.name), partial(self._node, cancelled=stop.is_set))
        try:
            return await asyncio.to_thread(work, input, config or {}, get_runtime(Context))
        except asyncio.CancelledError:
            stop.set()
            raise
