"""What the graph and the store add to a text turn: turns through both, less the same ids by the engine alone, medians.

    python benchmarks/graph.py [MODEL] [TURNS]

The same prompt, seed and bounds go both ways in turn, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from langchain_core.messages import HumanMessage

import anyloom
from anyloom.anygpt_model.values import Request
from anyloom.nodes.options import bounds, sampling
from anyloom.nodes.state import Context


def measured(engine: anyloom.Engine, store: anyloom.Store, turns: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each turn through the graph, of the engine alone, and of the graph's generate node."""
    context = Context(seed=1, modalities=("text",), max_tokens=32, temperature=0.0)
    graph = anyloom.build_graph(engine, store)
    ask: Any = {"messages": [HumanMessage("What is a cat?")]}
    first = store.turn(graph.invoke(ask, context=context)["turn"])
    request = Request(first.prompt, 1, bounds(context), sampling(context, engine.sampling))
    through, alone, inside = [], [], []
    for _ in range(turns):
        started = perf_counter()
        turn = graph.invoke(ask, context=context)["turn"]
        through.append(perf_counter() - started)
        inside.append(store.turn(turn).timings["generate"])
        started = perf_counter()
        engine.generate([request])
        alone.append(perf_counter() - started)
    return through, alone, inside


def main(model: str = "pocket", turns: int = 40) -> dict[str, float]:
    """Milliseconds: of a turn through the graph, of the engine alone, and what the graph adds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        anyloom.load_engine(model) as engine,
        anyloom.open_store(Path(folder) / "bench.db") as store,
    ):
        through, alone, inside = measured(engine, store, turns)
    medians = {"graph": through, "engine": alone, "generate_node": inside}
    result = {f"{name}_ms": round(1000 * statistics.median(times), 2) for name, times in medians.items()}
    added = [one - other for one, other in zip(through, alone, strict=True)]
    return {**result, "added_ms": round(1000 * statistics.median(added), 2), "turns": turns}


if __name__ == "__main__":
    name, turns = (*sys.argv[1:], "pocket", "40")[:2] if len(sys.argv) != 2 else (sys.argv[1], "40")
    print(json.dumps(main(name, int(turns))))
