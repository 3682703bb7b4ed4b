"""Running our graph inside somebody else's run: nothing of the caller's LangGraph (checkpointer, namespaces, streams)
leaks into it, and none of its messages into the caller's stream. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context as Variables
from typing import Any

from ..nodes.state import Context
from .conversation import Graph


def invoked(graph: Graph, messages: list[Any], context: Context, **options: Any) -> dict[str, Any]:
    """The graph's final state. options: of `invoke`."""
    request: Any = {"messages": messages}
    result: dict[str, Any] = Variables().run(lambda: graph.invoke(request, context=context, **options))
    return result


def streamed(graph: Graph, messages: list[Any], context: Context) -> Iterator[tuple[str, Any]]:
    """("custom", event) as they come, and ("values", state) after each step; the last values are the final state."""
    variables = Variables()
    request: Any = {"messages": messages}
    steps: Iterator[Any] = variables.run(
        lambda: iter(graph.stream(request, context=context, stream_mode=["custom", "values"]))
    )
    while (step := variables.run(lambda: next(steps, None))) is not None:
        yield step
