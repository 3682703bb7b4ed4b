"""What the flow `convert` costs beside the engine's own batched loop and beside one-by-one turns, on the same texts.

    python benchmarks/flows.py [MODEL] [ITEMS]

One process, one open model, one running Prefect server: a first small conversion starts both and isn't measured. The
engine's loop gets the very prompts, seeds and bounds of the flow's turns, as many a call as its queue takes; it reads
no source, stores no turn and writes no manifest. The flow's time is its whole run, Prefect's own bookkeeping included,
without heartbeats, as `anyloom convert` runs it: what a run of a single wave takes is told as fixed_s.
Flow and engine are measured in turn, ROUNDS times, and the medians are told. Replies end at 64 ids: one that rambles on
alone would measure itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from langchain_core.messages import HumanMessage

import anyloom
from anyloom.anygpt_model.values import Request, Turn
from anyloom.nodes.state import Context

THINGS = ["cat", "dog", "horse", "tree", "river", "city", "train", "boat", "violin", "drum", "apple", "bread"]
ASKED = ("What is a {}?", "Tell me about a {}.", "Where would you find a {}?", "Say something kind about a {}.")
ALONE = 32
"""Turns taken one by one; more would only take longer."""
LONGEST = 64
"""Ids of a reply."""
QUEUE = 256
"""Requests of a call."""
ROUNDS = 3


def table(path: Path, items: int, start: int = 0) -> str:
    """A JSONL of `items` different texts."""
    texts = (f"{ASKED[n % 4].format(THINGS[n // 4 % 12])} ({n})" for n in range(start, start + items))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def turns_of(store: anyloom.Store, out: Path) -> list[Turn]:
    """The turns that a manifest names, in its order."""
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return [store.turn(row["turn"]) for row in rows]


def seconds(work: Any) -> float:
    """How long a call takes."""
    began = perf_counter()
    work()
    return perf_counter() - began


def main(model: str = "pocket", items: int = 1920) -> dict[str, float]:
    """Items a second of the flow, of the engine alone, and of turns one after another; and the two ratios."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANYLOOM_HOME"] = folder
        os.environ.pop("ANYLOOM_DATABASE_URL", None)
        here = Path(folder)
        from anyloom.flows.convert import convert
        from anyloom.flows.ledger import Asked
        from anyloom.flows.planning import order
        from anyloom.flows.server import no_heartbeat
        from anyloom.flows.workplace import close_workplaces, workplace

        def flow(name: str, source: str) -> None:
            with no_heartbeat():
                convert(source, "text", str(here / name), model=model, max_tokens=LONGEST)

        flow("warm", table(here / "warm.jsonl", 16, 10_000))
        again = table(here / "again.jsonl", 16, 20_000)
        fixed = seconds(lambda: flow("again", again))
        source = table(here / "rows.jsonl", items)
        given = order(source, str(here / "0"), Asked("text"), model)
        place = workplace(given.model, given.device, given.database)
        flowed, batched = [], []
        for number in range(ROUNDS):
            flowed.append(seconds(lambda name=str(number): flow(name, source)))
            turns = turns_of(place.store, here / str(number))
            requests = [Request(turn.prompt, turn.generation.seed, turn.bounds, turn.sampling) for turn in turns]
            batched.append(seconds(lambda asked=requests: loop(place.engine, asked)))
        graph = anyloom.build_graph(place.engine, place.store)
        alone = seconds(lambda: one_by_one(graph, turns[:ALONE]))
        close_workplaces()
    times = {"flow": median(flowed), "engine": median(batched), "one_by_one": alone * items / min(ALONE, items)}
    return {
        **{f"{name}_items_per_s": round(items / spent, 2) for name, spent in times.items()},
        "flow_to_engine": round(median(one / other for one, other in zip(batched, flowed, strict=True)), 3),
        "flow_to_one_by_one": round(times["one_by_one"] / times["flow"], 2),
        "fixed_s": round(fixed, 2),
        "items": items,
        "ids_per_item": round(sum(len(turn.generation.ids) for turn in turns) / items, 1),
    }


def loop(engine: anyloom.Engine, requests: list[Request]) -> None:
    """The engine's own batched loop."""
    for start in range(0, len(requests), QUEUE):
        engine.generate(requests[start : start + QUEUE])


def one_by_one(graph: Any, turns: list[Turn]) -> None:
    """The same requests once more, each as a turn of its own, one after another."""
    for turn in turns:
        context = Context(to="text", seed=turn.generation.seed, max_tokens=LONGEST)
        graph.invoke({"messages": [HumanMessage(turn.request[0].text)]}, context=context)


if __name__ == "__main__":
    name, count = (*sys.argv[1:], *("pocket", "1920")[len(sys.argv) - 1 :])[:2]
    print(json.dumps(main(name, int(count))))
