"""How fast ids are made: ours beside transformers' `generate`, its continuous batching and the original's way.

    python benchmarks/generation.py [pocket|llama-135m|FOLDER] [--sections LIST] [--tokens N] [--rounds N] [--json]

All ways hold the same weights in this process and run in alternation, so that a busy machine is busy for all; the best
round counts. Sections: speed (batch 1 and 16, 16 threads), waits (first id, between ids, an eighth turn against a fresh
one of the same new length), ceilings (of decoding alone, a long call less a call of one id: the share of the measured
read bandwidth that one row's weights amount to, and of a loop of the linear layers alone at 16 rows), memory (what a
call adds to the process at its peak), continuous (adds transformers' continuous batching), divergence (20,000 ids
alone, in a batch of 16, in another order, from 16 threads and in another process: how many differ). Lines with a goal
say whether it is reached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent))
from generation_ways import Subject, open_subject

from anyloom.anygpt_model.values import Bounds, Request

SECTIONS = ("speed", "waits", "ceilings", "memory", "continuous", "divergence", "replies")
EACH = 1250
"""Ids of each of the 16 replies that must not diverge."""
ASKED, MADE = 32, 34
"""New ids and made ones of a turn: a sentence, and a picture with its markers."""


class Line(NamedTuple):
    """One row of the table; goal: what `ratio` is to reach (or, where negative, to stay under)."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    against: str = ""
    goal: float | None = None

    @property
    def text(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:8.2f} {self.against}"
        held = "" if self.goal is None or self.ratio is None else self._held(self.ratio, self.goal)
        return f"{self.name:34}{self.value:10.2f} {self.unit:9}{ratio:38}{held}".rstrip()

    @staticmethod
    def _held(ratio: float, goal: float) -> str:
        reached = ratio >= goal if goal > 0 else ratio <= -goal
        return f"{'reached' if reached else 'MISSED'} ({'>=' if goal > 0 else '<='} {abs(goal)})"


def main() -> None:
    """Measure and print."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("subject", nargs="?", default="pocket")
    given.add_argument("--sections", default="speed,waits,ceilings,memory")
    given.add_argument("--tokens", type=int, default=0)
    given.add_argument("--prompt", type=int, default=64)
    given.add_argument("--rounds", type=int, default=4)
    given.add_argument("--threads", type=int, default=torch.get_num_threads())
    given.add_argument("--json", action="store_true")
    options = given.parse_args()
    torch.set_num_threads(options.threads)
    wanted = [name for name in SECTIONS if name in options.sections.split(",")]
    exact = "divergence" in wanted or "replies" in wanted
    small = options.subject == "llama-135m"
    subject = open_subject(
        options.subject, options.tokens or (24 if small else 96), options.prompt, 0 if exact else 256 << 20
    )
    if wanted == ["replies"]:
        print(json.dumps(replies(subject)))
        subject.live.close()
        return
    lines = []
    if not options.json:
        print(f"{subject.name}, {subject.live.llama.dtype}, {options.threads} thread(s), {subject.tokens} ids a reply")
    for line in measured(subject, wanted, options.rounds):
        lines.append(line)
        if not options.json:
            print(line.text, flush=True)
    subject.live.close()
    if options.json:
        print(json.dumps([line._asdict() for line in lines]))


def measured(subject: Subject, sections: list[str], rounds: int) -> Iterator[Line]:
    """The table of `sections`, as it comes."""
    if "speed" in sections:
        yield from speed_lines(subject, speed(subject, rounds, "continuous" in sections))
    if "ceilings" in sections:
        yield from ceilings(subject, rounds)
    if "waits" in sections:
        yield from waits(subject, rounds)
    if "memory" in sections:
        yield from memory(subject)
    if "divergence" in sections:
        yield from divergence(subject)


def speed(subject: Subject, rounds: int, continuous: bool) -> dict[tuple[str, int], float]:
    """(way, rows) -> ids a second in its best round."""
    ways: dict[tuple[str, int], Callable[[], None]] = {}
    for rows in (1, 16):
        ways["plain generate", rows] = partial(subject.plain, rows)
        ways["the original's way", rows] = partial(subject.original, rows)
        ways["ours", rows] = partial(subject.ours, rows)
        if continuous and runs(subject):
            ways["continuous batching", rows] = partial(subject.continuous, rows)
    ways["ours, 16 threads", 16] = partial(subject.threads, 16)
    best: dict[tuple[str, int], float] = {}
    for _ in range(rounds + 1):
        for key, way in ways.items():
            best[key] = min(best.get(key, 1e9), seconds_of(way))
    return {(name, rows): rows * subject.tokens / seconds for (name, rows), seconds in best.items()}


def runs(subject: Subject) -> bool:
    """Whether transformers' continuous batching works on this machine."""
    try:
        subject.continuous(2, tokens=4)
    except Exception as error:  # whatever a library under judgement raises is its result
        print(f"continuous batching did not run: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def speed_lines(subject: Subject, speeds: dict[tuple[str, int], float]) -> list[Line]:
    goals = {1: 1.5 if subject.live.llama.dtype == torch.bfloat16 else 2.5, 16: 2.0}
    lines = []
    for (name, rows), found in speeds.items():
        if name == "ours, 16 threads":
            lines.append(Line(name, found, "ids/s", found / speeds["ours", 16], "x ours, batch 16", 0.8))
        else:
            goal = goals[rows] if name == "ours" else None
            ratio = found / speeds["plain generate", rows]
            lines.append(Line(f"{name}, batch {rows}", found, "ids/s", ratio, "x plain generate", goal))
    return lines


def waits(subject: Subject, rounds: int) -> list[Line]:
    """To the first id and between ids, and of an eighth turn against a fresh turn of the same length."""
    lines = []
    plain: dict[str, float] = {}
    for name, way in (("plain generate", subject.plain), ("ours", subject.ours)):
        runs = [ticks(way) for _ in range(rounds)]
        for what, found in (("first id", min(run[0] for run in runs)), ("between ids", min(run[1] for run in runs))):
            ratio = plain.setdefault(what, found) / found
            lines.append(Line(f"{name}, {what}", 1e3 * found, "ms", ratio, "x as fast as plain generate"))
    eighth, fresh = [], []
    for _ in range(rounds):
        eighth.append(first(subject, [*conversation(subject), *subject.fresh(ASKED)]))
        fresh.append(first(subject, subject.fresh(ASKED)))
    lines.append(Line("fresh turn, first id", 1e3 * min(fresh), "ms"))
    lines.append(Line("eighth turn, first id", 1e3 * min(eighth), "ms", min(eighth) / min(fresh), "x fresh turn", -1.3))
    return lines


def ticks(way: Callable[[int, Callable[[], None], int], None]) -> tuple[float, float]:
    """Seconds to the first of 16 ids, and between two of them."""
    times = [time.perf_counter()]
    way(1, lambda: times.append(time.perf_counter()), 16)
    return times[1] - times[0], median(later - sooner for sooner, later in pairwise(times[1:]))


def conversation(subject: Subject) -> list[int]:
    """The ids of seven turns, the last of which left its cache."""
    ids: list[int] = []
    for _ in range(7):
        ids += subject.fresh(ASKED)
        ids += subject.live.generate([subject.request(ids, MADE)])[0].ids
    return ids


def first(subject: Subject, ids: list[int]) -> float:
    """Seconds until a reply's first id reaches its caller."""
    request, times = subject.request(ids, 4), [time.perf_counter()]
    subject.live.generate([request], lambda *_: times.append(time.perf_counter()))
    return times[1] - times[0]


def ceilings(subject: Subject, rounds: int) -> list[Line]:
    """What the machine could do at most: read bandwidth for one row, the linear layers alone for sixteen."""
    llama, steps = subject.live.llama, subject.tokens - 1
    linears, big = subject.linears(), torch.ones(64 << 20)
    ways: dict[str, Callable[[], object]] = {
        "read": big.sum,
        "linears": lambda: [linears() for _ in range(steps)],
        **{f"{rows} long": partial(subject.ours, rows) for rows in (1, 16)},
        **{f"{rows} short": partial(subject.ours, rows, tokens=1) for rows in (1, 16)},
    }
    best: dict[str, float] = {}
    with torch.inference_mode():
        for _ in range(2 * rounds + 1):
            for name, way in ways.items():
                best[name] = min(best.get(name, 1e9), seconds_of(way))
    single, sixteen = (rows * steps / (best[f"{rows} long"] - best[f"{rows} short"]) for rows in (1, 16))
    bandwidth, loop = big.nbytes / best["read"], 16 * steps / best["linears"]
    read = single * llama.parameter_bytes
    goal = 0.5 if llama.dtype == torch.bfloat16 else None
    return [
        Line("read bandwidth", bandwidth / 1e9, "GB/s"),
        Line("decoding, 1 row, weights read", read / 1e9, "GB/s", read / bandwidth, "of bandwidth", goal),
        Line("linear layers alone, 16 rows", loop, "ids/s"),
        Line("decoding, 16 rows", sixteen, "ids/s", sixteen / loop, "of the linear layers alone", 0.4),
    ]


def memory(subject: Subject) -> list[Line]:
    """What one call of 16 rows adds to the process at its peak."""
    lines = []
    for name, way in (("plain generate", subject.plain), ("ours", subject.ours)):
        before = peak_of(lambda: None)
        lines.append(Line(f"{name}, batch 16, peak", (peak_of(partial(way, 16)) - before) / 1e6, "MB more"))
    return [*lines, Line("process", peak_of(lambda: None) / 1e6, "MB")]


def asked(subject: Subject) -> list[Request]:
    """Sixteen requests of unequal prompts, the same in every process."""
    ids = subject.vocabulary.text_ids
    prompts = [(subject.vocabulary.bos, *(ids[7 * row + place] for place in range(8 + 3 * row))) for row in range(16)]
    return [Request(prompt, row, Bounds(max_tokens=EACH)) for row, prompt in enumerate(prompts)]


def replies(subject: Subject) -> list[tuple[int, ...]]:
    """The ids of sixteen replies, made together."""
    return [made.ids for made in subject.live.generate(asked(subject))]


def divergence(subject: Subject) -> Iterator[Line]:
    """How many of 20,000 ids differ from those of the same requests made alone."""
    requests = asked(subject)
    alone = [subject.live.generate([request])[0].ids for request in requests]
    yield Line("ids made alone", sum(map(len, alone)), "ids")
    ways: dict[str, Callable[[], Sequence[Sequence[int]]]] = {
        "in a batch of 16": lambda: replies(subject),
        "in another order": lambda: [made.ids for made in subject.live.generate(requests[::-1])][::-1],
        "from 16 threads": lambda: at_once(subject, requests),
        "in another process, one thread": lambda: elsewhere(subject),
    }
    for name, way in ways.items():
        pairs = zip(alone, way(), strict=True)
        differ = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
        yield Line(name, differ, "differ", float(differ), "of them", -0.5)


def at_once(subject: Subject, requests: list[Request]) -> list[tuple[int, ...]]:
    """The ids of each request, from a thread of its own."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: subject.live.generate([request])[0].ids, requests))


def elsewhere(subject: Subject) -> list[list[int]]:
    """The ids of sixteen replies made by a process of their own."""
    command = [sys.executable, __file__, subject.name, "--sections", "replies", "--threads", "1"]
    made: list[list[int]] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return made


def peak_of(work: Callable[[], Any]) -> int:
    """The largest resident size while `work` runs, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    work()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
