"""Running our graph inside somebody else's run: nothing of the caller's LangGraph (checkpointer, namespaces, streams)
leaks into it, and none of its messages into the caller's stream. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context as Variables
from typing import Any

from ..nodes.state import Context
from .conversation import Graph


def invoked(graph: Graph, messages: list[Any], context: Context) -> dict[str, Any]:
    """The graph's final state."""
    result: dict[str, Any] = Variables().run(graph.invoke, {"messages": messages}, context=context)  # type: ignore[arg-type]
    return result


def streamed(graph: Graph, messages: list[Any], context: Context) -> Iterator[tuple[str, Any]]:
    """("custom", event) as they come, and ("values", state) after each step; the last values are the final state."""
    variables = Variables()
    modes = ["custom", "values"]
    steps = variables.run(
        lambda: iter(graph.stream({"messages": messages}, context=context, stream_mode=modes))  # type: ignore[arg-type, call-overload]
    )
    while (step := variables.run(next, steps, None)) is not None:
        yield step
