"""What a proof costs: `verify` beside one prefill of the same ids and beside `regenerate`, in one table.

    python benchmarks/replay.py [--model NAME|FOLDER] [--tokens 1000] [--rounds 7] [--threads 2] [--json]

One trace of about `--tokens` ids of speech and music is made by the graph in float32; then everything runs in this
process, in turn, so that a busy machine is busy for all. A prefill is a plain forward pass: hidden states of every id
and the logits of every generated one; transformers' own is measured as well, and ours without any logits. `verify` and
`regenerate` are the public ones, the graph's way there and the store included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.engine import Engine, load_engine
from anyloom.anygpt_model.llama import PREFILL_CHUNK
from anyloom.anygpt_model.values import Request, Turn
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.replay import Report, regenerate, verify
from anyloom.nodes.state import Context
from anyloom.storage.store import Store, memory_store

ROWS = 128
SEEDS = 24
SPANS = 16
PREFILL, THEIRS, HIDDEN = "prefill", "transformers' prefill", "prefill without logits"
VERIFY, REGENERATE = "verify", "regenerate"


def make_turn(engine: Engine, store: Store, tokens: int) -> Turn:
    """A turn of the seed that, of a few, makes the longest reply. Music is drawn as always, speech so hot that its end
    is one code of a thousand, and whether another span begins is left to chance."""
    hot = {"text": {"temperature": 50.0}, "speech": {"temperature": 50.0, "top_k": 0}}

    def made(seed: int) -> Turn:
        context = Context(
            modalities=("speech", "music"), max_tokens=tokens, max_segments=SPANS, max_seconds=tokens / 10.0, seed=seed,
            sampling=hot,
        )  # fmt: skip
        result = build_graph(engine, store).invoke({"messages": [HumanMessage("play a tune")]}, context=context)
        return store.turn(result["turn"])

    first = made(0)
    requests = [Request(first.prompt, seed, first.bounds, first.sampling) for seed in range(SEEDS)]
    longest = max(engine.generate(requests), key=lambda generation: len(generation.ids))
    if len(longest.ids) < 0.95 * tokens:
        raise SystemExit(f"No reply of {SEEDS} came near {tokens} ids; ask for fewer with --tokens.")
    return made(longest.seed)


def hidden_states(engine: Engine, ids: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
    """Ours, as a reply's prompt is prefilled: [ids, hidden]."""
    llama = engine.language_model.llama
    prefix = llama.new_prefix(len(ids))
    return torch.cat(
        [llama.prefill(part, prefix) for part in np.split(ids, range(PREFILL_CHUNK, len(ids), PREFILL_CHUNK))]
    )


def ways(engine: Engine, store: Store, turn: Turn) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(engine.folder / "llm", dtype=torch.float32).eval()
    ids = np.asarray([*turn.prompt, *turn.generation.ids[:-1]], np.int64)
    made = len(turn.generation.ids)

    def prefill() -> None:
        for part in torch.split(hidden_states(engine, ids)[-made:], ROWS):
            engine.language_model.llama.whole(part)

    @torch.inference_mode()
    def theirs() -> None:
        reference(torch.from_numpy(ids)[None], use_cache=True, logits_to_keep=made)

    return {
        PREFILL: prefill,
        THEIRS: theirs,
        HIDDEN: lambda: hidden_states(engine, ids),
        VERIFY: lambda: proven(verify(engine, store, turn.id)),
        REGENERATE: lambda: proven(regenerate(engine, store, turn.id)),
    }


def proven(report: Report) -> None:
    """A replay that ends elsewhere would be measured over other ids."""
    if report.verdict != "identical":
        raise SystemExit(f"The trace does not come out again: {report.findings}")


def measure(table: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, a first round left out; the slow one runs in two rounds only."""
    found: dict[str, list[float]] = {name: [] for name in table}
    for number in range(rounds + 1):
        for name, way in table.items():
            if name != REGENERATE or number <= 2:
                started = time.perf_counter()
                way()
                found[name].append(time.perf_counter() - started)
    return {name: median(seconds[1:]) for name, seconds in found.items()}


def shown(found: dict[str, float], turn: Turn) -> str:
    """The numbers as a Markdown table."""
    lines = [
        f"A turn of {len(turn.generation.ids)} ids after a prompt of {len(turn.prompt)}",
        "",
        "| what | median, ms | verify costs of it |",
        "|---|---|---|",
        *(f"| {name} | {spent * 1000:,.0f} | {found[VERIFY] / spent:.2f} |" for name, spent in found.items()),
        "",
        f"verify is {found[REGENERATE] / found[VERIFY]:.1f} times as fast as regenerate (wanted: at least 4) and takes "
        f"{found[VERIFY] / found[PREFILL]:.2f} of a prefill (wanted: at most 1.5).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--model", default="pocket")
    given.add_argument("--tokens", type=int, default=1000)
    given.add_argument("--rounds", type=int, default=7)
    given.add_argument("--threads", type=int, default=2)
    given.add_argument("--json", action="store_true")
    options = given.parse_args()
    torch.set_num_threads(options.threads)
    with load_engine(options.model, device="cpu", dtype="float32") as engine, memory_store() as store:
        turn = make_turn(engine, store, options.tokens)
        found = measure(ways(engine, store, turn), options.rounds)
    print(json.dumps({"ids": len(turn.generation.ids), **found}) if options.json else shown(found, turn))


if __name__ == "__main__":
    main()
