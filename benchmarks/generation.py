"""How fast ids are made: ours beside transformers' `generate` and beside the original's way, in one table.

    python benchmarks/generation.py [--model NAME|FOLDER] [--tokens 128] [--rounds 3] [--threads N] [--json]

All three run the same weights in this process, in alternation, so that a busy machine is busy for all; the best round
counts. Every reply is `--tokens` speech codes long, so that lengths are equal. Beside the table: the share of the
machine's read bandwidth that the weights' traffic amounts to (batch 1), the share of a loop of the linear layers alone
(batch 16), and what a conversation's eighth turn waits against a fresh one of the same new length.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from anyloom.anygpt_model.engine import Engine, load_engine
from anyloom.anygpt_model.legal_ids import Legal
from anyloom.anygpt_model.legality import Grammar, State
from anyloom.anygpt_model.values import Bounds, Finish, Modality, Request

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


class Endless:
    """An automaton of exactly `bounds.max_tokens` speech codes."""

    finish: Finish = "length"

    def __init__(self, legal: Legal, length: int) -> None:
        self._legal, self._left, self.state = legal, length, State()

    @property
    def ended(self) -> bool:
        return self._left == 0

    def legal(self) -> Legal:
        return self._legal

    def push(self, token: int) -> None:
        self._left -= 1


class EndlessGrammar(Grammar):
    """Replies of equal length, for measuring."""

    def begin(self, prompt: Any, bounds: Bounds, context_length: int) -> Any:
        table = self.vocabulary.range(Modality.SPEECH)
        return Endless(Legal(Modality.SPEECH, ((table.start, table.stop),), (table.closing,)), bounds.max_tokens)


def main() -> None:
    """Measure and print."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--model", default="pocket")
    given.add_argument("--tokens", type=int, default=128)
    given.add_argument("--prompt", type=int, default=64)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--threads", type=int, default=torch.get_num_threads())
    given.add_argument("--json", action="store_true")
    options = given.parse_args()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    engine = load_engine(options.model, device="cpu")
    opened = time.perf_counter() - started
    engine.language_model.grammar = EndlessGrammar(engine.vocabulary)
    found = {"open_seconds": opened, "threads": options.threads, **measure(engine, options)}
    engine.close()
    print(json.dumps(found) if options.json else table(found))


def measure(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table shows."""
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(engine.folder / "llm", dtype=torch.float32).eval()
    ways: dict[str, Callable[[int], float]] = {
        "the original's way": lambda rows: original(engine, reference, rows, options),
        "plain generate": lambda rows: plain(engine, reference, rows, options),
        "ours": lambda rows: ours(engine, rows, options),
        "ours, threads": lambda rows: threaded(engine, rows, options),
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for rows in (1, 16):
        for _ in range(options.rounds + 1):
            for name, way in ways.items():
                if not (rows == 1 and name == "ours, threads"):
                    seconds.setdefault((name, rows), []).append(way(rows))
    best = {f"{name}, batch {rows}": rows * options.tokens / min(times[1:]) for (name, rows), times in seconds.items()}
    return {
        "tokens_per_second": best,
        **waits(engine, options),
        **ceilings(engine, best["ours, batch 1"], best["ours, batch 16"]),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def prompt(engine: Engine, length: int, row: int) -> list[int]:
    """Text ids, different in each row from the start so that no prefix is shared."""
    rng = np.random.default_rng(row)
    return [engine.vocabulary.bos, *rng.choice(engine.vocabulary.text_ids, length - 1).tolist()]


def plain(engine: Engine, reference: Any, rows: int, options: argparse.Namespace) -> float:
    """Seconds of transformers' `generate`."""
    ids = torch.tensor([prompt(engine, options.prompt, row) for row in range(rows)])
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens, "pad_token_id": 0}
    with torch.inference_mode():
        return seconds_of(lambda: reference.generate(ids, attention_mask=torch.ones_like(ids), **SAMPLING, **length))


def original(engine: Engine, reference: Any, rows: int, options: argparse.Namespace) -> float:
    """Seconds of the original's path: a string in, `generate` with scores, a string out, codes by a regex."""
    vocabulary = engine.vocabulary
    lines = [vocabulary.decode(prompt(engine, options.prompt, row)[1:]) for row in range(rows)]
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens, "pad_token_id": 0}

    def once() -> None:
        ids = [[vocabulary.bos, *vocabulary.encode(line)][: options.prompt] for line in lines]
        shortest = min(map(len, ids))
        given = torch.tensor([line[:shortest] for line in ids])
        made = reference.generate(
            given, attention_mask=torch.ones_like(given), **SAMPLING, **length,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        for row in made.sequences:
            text = " ".join(vocabulary.string(token) for token in row.tolist())
            re.findall(r"\d+", text)

    with torch.inference_mode():
        return seconds_of(once)


_calls = 0


def requests(engine: Engine, rows: int, options: argparse.Namespace) -> list[Request]:
    """Requests whose prompts no earlier call had."""
    global _calls
    _calls += 1
    bounds = Bounds(max_tokens=options.tokens)
    return [Request(tuple(prompt(engine, options.prompt, 1000 * _calls + row)), row, bounds) for row in range(rows)]


def ours(engine: Engine, rows: int, options: argparse.Namespace) -> float:
    """Seconds of one call with `rows` requests."""
    asked = requests(engine, rows, options)
    return seconds_of(lambda: engine.generate(asked))


def threaded(engine: Engine, rows: int, options: argparse.Namespace) -> float:
    """Seconds of `rows` threads that call at once."""
    asked = requests(engine, rows, options)
    threads = [threading.Thread(target=engine.generate, args=([request],)) for request in asked]

    def once() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return seconds_of(once)


def waits(engine: Engine, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds to the first id and between ids, and of an eighth turn against a fresh turn of the same length."""
    times: list[float] = []
    [request] = requests(engine, 1, options)
    begun = time.perf_counter()
    engine.generate([request], on_token=lambda *_: times.append(time.perf_counter()))
    said = {"first_ms": 1e3 * (times[0] - begun), "between_ms": 1e3 * median(np.diff(times))}
    turns = [conversation(engine, options) for _ in range(options.rounds)]
    fresh = min(first(engine, prompt(engine, options.prompt, 77_000 + turn)) for turn in range(options.rounds))
    return {**said, "eighth_turn_ms": 1e3 * min(turns), "fresh_turn_ms": 1e3 * fresh}


def conversation(engine: Engine, options: argparse.Namespace) -> float:
    """Seconds until the first id of the eighth turn; each turn adds `options.prompt` ids and 40 made ones."""
    global _calls
    _calls += 1
    ids: list[int] = []
    for turn in range(7):
        ids += prompt(engine, options.prompt, 1000 * _calls + turn)
        ids += engine.generate([Request(tuple(ids), turn, Bounds(max_tokens=40))])[0].ids
    return first(engine, [*ids, *prompt(engine, options.prompt, 60_000)])


def first(engine: Engine, ids: list[int]) -> float:
    """Seconds until a reply's first id."""
    request = Request(tuple(ids), 1, Bounds(max_tokens=1))
    return seconds_of(lambda: engine.generate([request]))


def ceilings(engine: Engine, single: float, sixteen: float) -> dict[str, float]:
    """What the machine could do at most: read bandwidth for one row, the linear layers alone for sixteen."""
    llama = engine.language_model.llama
    big = torch.ones(64 << 20)
    bandwidth = big.nbytes / min(seconds_of(lambda: float(big.sum())) for _ in range(5))
    rows = torch.randn(16, llama.shape.hidden)
    wide = torch.randn(16, llama.shape.intermediate)

    def linears() -> None:
        for layer in llama.layers:
            for linear in (layer.qkv, layer.out, layer.gate, layer.up):
                linear(rows[:, : _inputs(linear)])
            layer.down(wide)

    with torch.inference_mode():
        loop = 16 / min(seconds_of(linears) for _ in range(20))
    return {
        "read_gb_per_second": bandwidth / 1e9,
        "share_of_bandwidth": single * llama.parameter_bytes / bandwidth,
        "linears_tokens_per_second": loop,
        "share_of_linears": sixteen / loop,
    }


def _inputs(linear: Any) -> int:
    return int(linear.blocks[0].shape[0] if linear.blocks else linear.weight.shape[1])


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def table(found: dict[str, Any]) -> str:
    """The measurements for people."""
    speeds: dict[str, float] = found["tokens_per_second"]
    lines = [f"{'tokens a second':32}{'':>10}{'x plain generate':>18}"]
    for name, speed in speeds.items():
        base = speeds[f"plain generate, {name.rpartition(', ')[2]}"]
        lines.append(f"{name:32}{speed:10.1f}{speed / base:18.2f}")
    lines += [f"{name:32}{value:10.3f}" for name, value in found.items() if isinstance(value, int | float)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
