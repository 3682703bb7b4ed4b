"""What the flow `convert` costs beside the engine's own batched loop and beside one-by-one turns, on the same texts.

    python benchmarks/flows.py [MODEL] [ITEMS] [ROUNDS]

One process, one open model, one running Prefect server: a first small conversion starts both and isn't measured. The
engine's loop gets the very prompts, seeds and bounds of the flow's turns, as many a call as its queue takes; it reads
no source, stores no turn and writes no manifest. The flow's time is its whole run, Prefect's own bookkeeping included,
without heartbeats, as `anyloom convert` runs it: in threads of this process, and in two worker processes (whose start,
Python's imports and a model each, is part of the run). A run of one wave says what of that is fixed.
All are measured in turn, ROUNDS times; with the usual ten thousand texts that takes ten minutes. Told are medians, and
of each ratio, taken round by round, the least and the most. Replies end at 64 ids: one that rambles on alone would
measure itself.
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
RUNNERS = ("threads", "processes")
COLUMNS = (("to_engine", 26), ("to_one_by_one", 24))


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


def main(model: str = "pocket", items: int = 10_000, rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """For each way items a second, its ratio to the engine and to turns one by one, and the seconds that are fixed."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANYLOOM_HOME"] = folder
        os.environ.pop("ANYLOOM_DATABASE_URL", None)
        here = Path(folder)
        from anyloom.flows.convert import convert
        from anyloom.flows.ledger import Asked
        from anyloom.flows.planning import order
        from anyloom.flows.runners import task_runner
        from anyloom.flows.server import no_heartbeat
        from anyloom.flows.workplace import close_workplaces, workplace

        def flow(name: str, source: str, runner: str = "threads") -> float:
            os.environ["ANYLOOM_TASK_RUNNER"] = runner
            chosen = convert.with_options(task_runner=task_runner())
            with no_heartbeat():
                return seconds(lambda: chosen(source, "text", str(here / name), model=model, max_tokens=LONGEST))

        flow("warm", table(here / "warm.jsonl", 16, 10_000))
        fixed = {
            runner: flow(f"again {runner}", table(here / f"again {runner}.jsonl", 16, 20_000 + n), runner)
            for n, runner in enumerate(RUNNERS)
        }
        source = table(here / "rows.jsonl", items)
        given = order(source, str(here / "threads 0"), Asked("text"), model)
        place = workplace(given.model, given.device, given.database)
        graph = anyloom.build_graph(place.engine, place.store)
        taken: dict[str, list[float]] = {name: [] for name in (*RUNNERS, "engine", "one by one")}
        for number in range(rounds):
            taken["threads"].append(flow(f"threads {number}", source))
            turns = turns_of(place.store, here / f"threads {number}")
            asked = [Request(turn.prompt, turn.generation.seed, turn.bounds, turn.sampling) for turn in turns]
            taken["engine"].append(seconds(lambda asked=asked: loop(place.engine, asked)))
            taken["processes"].append(flow(f"processes {number}", source, "processes"))
            some = turns[number * ALONE : (number + 1) * ALONE]
            alone = seconds(lambda some=some: one_by_one(graph, some))
            taken["one by one"].append(alone * items / len(some))
        close_workplaces()
    return {
        name: {
            "items_per_s": round(items / median(spent), 1),
            "to_engine": ratio(taken["engine"], spent),
            "to_one_by_one": ratio(taken["one by one"], spent),
            "fixed_s": round(fixed[name], 2) if name in fixed else None,
        }
        for name, spent in taken.items()
    }


def ratio(baseline: list[float], spent: list[float]) -> tuple[float, float, float]:
    """How many times as fast as the baseline of the same round: median, least, most."""
    each = sorted(one / other for one, other in zip(baseline, spent, strict=True))
    return round(median(each), 3), round(each[0], 3), round(each[-1], 3)


def shown(found: dict[str, dict[str, Any]]) -> str:
    """The table."""
    lines = [f"{'':12}{'items/s':>9}{'to engine (least-most)':>26}{'to one by one':>24}{'fixed s':>9}"]
    for name, row in found.items():
        ratios = "".join(f"{'{:.2f} ({:.2f}-{:.2f})'.format(*row[to]):>{wide}}" for to, wide in COLUMNS)
        fixed = "" if row["fixed_s"] is None else row["fixed_s"]
        lines.append(f"{name:12}{row['items_per_s']:>9}{ratios}{fixed:>9}")
    return "\n".join(lines)


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
    model, items, rounds = (*sys.argv[1:], *("pocket", "10000", str(ROUNDS))[len(sys.argv) - 1 :])[:3]
    print(shown(main(model, int(items), int(rounds))))
