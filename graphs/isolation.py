"""Running our graph inside somebody else's run: nothing of the caller's LangGraph (checkpointer, namespaces, streams)
leaks into it, and none of its messages into the caller's stream. A caller that goes away stops it. Knows no model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextvars import Context as Variables
from typing import Any

from ..nodes.state import Context
from ..nodes.timing import GONE
from .conversation import Graph

MODES: Any = ["custom", "values"]


def invoked(graph: Graph, messages: list[Any], context: Context, **options: Any) -> dict[str, Any]:
    """The graph's final state. options: of `invoke`."""
    request: Any = {"messages": messages}
    result: dict[str, Any] = Variables().run(lambda: graph.invoke(request, context=context, **options))
    return result


async def ainvoked(graph: Graph, messages: list[Any], context: Context) -> dict[str, Any]:
    """As `invoked`; a cancelled task stops the model."""
    request: Any = {"messages": messages}
    result: dict[str, Any] = await _apart(graph.ainvoke(request, context=context), Variables())
    return result


def streamed(graph: Graph, messages: list[Any], context: Context) -> Iterator[tuple[str, Any]]:
    """("custom", event) as they come, and ("values", state) after each step; the last values are the final state.

    A caller that stops reading stops the model.
    """
    variables, gone = Variables(), threading.Event()
    variables.run(GONE.set, gone.is_set)
    request: Any = {"messages": messages}
    steps: Any = variables.run(lambda: iter(graph.stream(request, context=context, stream_mode=MODES)))
    try:
        while (step := variables.run(lambda: next(steps, None))) is not None:
            yield step
    finally:
        gone.set()
        variables.run(steps.close)


async def astreamed(graph: Graph, messages: list[Any], context: Context) -> AsyncGenerator[tuple[str, Any]]:
    """As `streamed`."""
    variables = Variables()
    request: Any = {"messages": messages}
    steps: Any = graph.astream(request, context=context, stream_mode=MODES)

    async def following() -> Any:
        return await anext(steps, None)

    try:
        while (step := await _apart(following(), variables)) is not None:
            yield step
    finally:
        await _apart(steps.aclose(), variables)


async def _apart(work: Coroutine[Any, Any, Any], variables: Variables) -> Any:
    """What `work` returns, run with `variables` in place of the caller's."""
    return await asyncio.get_running_loop().create_task(work, context=variables)
