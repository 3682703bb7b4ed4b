"""The store beside a plain one: seconds a turn, seconds a page of 100,000 turns, bytes a thousand tokens.

The baseline is what most trace tools do: one table, a turn as one JSON document. Run:
    python benchmarks/store.py [--turns 100000] [--out FILE.json]
Knows no model: the turns are made up. `cpu` is the process's own time, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from sqlalchemy import text

from anyloom.anygpt_model.values import Bounds, Generation, Modality, Part, Sampling, Span, Turn
from anyloom.storage.documents import turn_document
from anyloom.storage.store import Store, open_store
from anyloom.storage.turns import append

LONG = 10_000
BASE = 1000
SETTINGS = "finish, seed, bounds, sampling, fingerprints, versions"
GENERATION = f"model, prompt, ids, logprobs, margins, prompt_tokens, tokens, {SETTINGS}"
PART = "side, position, modality, media, description, span, span_modality, kind, generated, seed"
COPIES = (
    "INSERT INTO conversations SELECT id || :name, created + :add, updated + :add FROM conversations"
    " WHERE id NOT LIKE '% copy %'",
    "INSERT INTO turns SELECT number + :add, :mark || substr(id, 3), conversation || :name, :mark || substr(parent, 3),"
    " run || :name, created, at + :add, dropped, options, digest, hash, erased FROM turns WHERE number <= 1000",
    f"INSERT INTO generations (turn, {GENERATION}) SELECT turn + :add, {GENERATION}"
    " FROM generations WHERE turn <= 1000",
    f"INSERT INTO parts (turn, text, {PART}) SELECT turn + :add, text || :name, {PART} FROM parts WHERE turn <= 1000",
    "INSERT INTO timings SELECT turn + :add, node, seconds FROM timings WHERE turn <= 1000",
    "INSERT INTO search (rowid, words) SELECT rowid + :add, words || :name FROM search WHERE rowid <= 1000",
)
WORDS = ["red", "green", "apple", "table", "river", "small", "quiet", "song", "bird", "house", "morning", "light"]


def make_turn(number: int, tokens: int, parent: str | None, draw: random.Random) -> Turn:
    """A made-up turn of so many generated ids, with float32 numbers as a model gives them."""
    floats = np.asarray([draw.random() for _ in range(tokens)], np.float32).tolist()
    ids = tuple(draw.randrange(53_000) for _ in range(tokens))
    said = " ".join(draw.choices(WORDS, k=12))
    return Turn(
        id=f"00{draw.getrandbits(120):030x}",
        conversation=f"conversation {number // 10}",
        parent=parent,
        run=f"run {number}",
        request=(Part(Modality.TEXT, text=f"{said} {number}", span=Span(Modality.TEXT, ids[:20])),),
        reply=(Part(Modality.IMAGE, span=Span(Modality.IMAGE, ids), generated=True),),
        prompt=ids[:100],
        generation=Generation(ids, tuple(-value for value in floats), tuple(floats), "end", number),
        bounds=Bounds(),
        sampling={Modality.IMAGE: Sampling()},
        model="pocket",
        fingerprints={"llm": "sha256:" + "a" * 64},
        versions={"torch": "2.11.0"},
        timings={"detect": 0.001, "generate": 1.0, "record": 0.002},
        options={"to": "image"},
        created=f"2026-11-23T21:{number // 60 % 60:02}:{number % 60:02}+00:00",
    )


class Plain:
    """The baseline: the turn as JSON in one row, committed as durably as ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS turns (id TEXT PRIMARY KEY, document TEXT)")

    def record(self, turn: Turn) -> None:
        """Write one turn."""
        self._connection.execute("INSERT INTO turns VALUES (?, ?)", (turn.id, json.dumps(turn_document(turn))))

    def close(self) -> None:
        """Empty the log into the file."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()


def clock(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Median wall and CPU milliseconds of `work`."""
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    return statistics.median(walls), statistics.median(cpus)


def long_turns(folder: Path) -> dict[str, tuple[float, float]]:
    """Write and read turns of 10,000 ids; bytes on disk for each thousand of them."""
    draw = random.Random(0)
    turns = [make_turn(number, LONG, None, draw) for number in range(30)]
    plain = Plain(folder / "plain.db")
    found: dict[str, tuple[float, float]] = {}
    with open_store(folder / "ours.db") as store:
        for turn in turns[:3]:
            store.record(turn)
        rest, again = iter(turns[3:]), iter(turns)
        found["write 10,000 tokens, ms"] = clock(lambda: store.record(next(rest)), len(turns) - 3)
        found["write 10,000 tokens as JSON, ms"] = clock(lambda: plain.record(next(again)), len(turns))
        found["read 10,000 tokens, ms"] = clock(lambda: store.turn(turns[7].id), 15)
        store.life.wipe()
    plain.close()
    for name, label in (("ours.db", "bytes per 1,000 tokens"), ("plain.db", "bytes per 1,000 tokens as JSON")):
        size = (folder / name).stat().st_size / (len(turns) * LONG / 1000)
        found[label] = (size, size)
    return found


def fill(store: Store, count: int) -> None:
    """Many short turns: a thousand are recorded, the others are copies of their rows under other names."""
    draw = random.Random(1)
    parent: str | None = None
    with store.database.writing() as connection:
        for number in range(BASE):
            turn = make_turn(number, 32, parent if number % 10 else None, draw)
            parent = turn.id
            append(connection, turn, "t1:made up", float(number))
        for copy in range(1, count // BASE):
            values = {"add": copy * BASE, "mark": f"{copy:02x}", "name": f" copy {copy}"}
            for statement in COPIES:
                connection.execute(text(statement), values)


def many_turns(folder: Path, count: int) -> dict[str, tuple[float, float]]:
    """Open, list and search a store of many turns."""
    path = folder / "many.db"
    with open_store(path) as store:
        fill(store, count)
        store.life.wipe()
        middle = store.turns(limit=1, before=count // 2)[0]
    found: dict[str, tuple[float, float]] = {}

    def reopen() -> None:
        with open_store(path) as again:
            again.tip("conversation 7")

    found["open and fetch a tip, ms"] = clock(reopen, 9)
    with open_store(path) as store:
        cases: dict[str, Callable[[], object]] = {
            "newest 50 turns": lambda: store.turns(),
            "50 turns from the middle": lambda: store.turns(before=middle.number),
            "newest 50 conversations": lambda: store.conversations(),
            "open a turn by 8 characters": lambda: store.turn(middle.id[:8]),
            "its lineage": lambda: store.lineage(middle.id),
            "search three words that one turn has": lambda: store.search(f"{BASE // 3} copy {count // BASE // 2}"),
            "search a word of most turns": lambda: store.search("apple"),
            "search two words": lambda: store.search("river song"),
            "search the beginning of a word": lambda: store.search("mor"),
        }
        for name, work in cases.items():
            found[f"{name}, ms"] = clock(work, 9)
    return found


def table(rows: Iterable[tuple[str, tuple[float, float]]]) -> str:
    """The numbers as a Markdown table."""
    lines = ["| what | median, wall | median, cpu |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {wall:,.1f} | {cpu:,.1f} |" for name, (wall, cpu) in rows)])


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = long_turns(Path(folder))
        print(f"Turns of {LONG:,} tokens\n{table(found.items())}\n", flush=True)
        found |= (many := many_turns(Path(folder), options.turns))
    print(f"{options.turns:,} turns\n{table(many.items())}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
