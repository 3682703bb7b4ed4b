"""Killed with -9 at three moments and started again, a conversion ends as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anyloom.storage.store import open_store

ITEMS = 40
WORKER = """
import os, sys, time
from uuid import uuid5
from anyloom.anygpt_model.errors import InputError
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Part, Turn
from anyloom.flows.conversion import Conversion
from anyloom.flows.destination import Destination, manifest_rows
from anyloom.flows.ledger import Asked, row
from anyloom.flows.planning import all_items
from anyloom.flows.shards import Shard
from anyloom.flows.sources import Source
from anyloom.nodes.recording import RUNS
from anyloom.storage.store import open_store

database, where, out = sys.argv[1:]
store, source = open_store(database), Source(where)

def ask(messages):
    return [one(message, context) for message, context in messages]

def one(message, context):
    text = message.text
    if "bad" in text:
        return InputError("The text is bad; say something else.")
    time.sleep(0.01)
    reply = (Part(Modality.TEXT, text=text.upper(), generated=True),)
    store.record(Turn(
        id=uuid5(RUNS, context.run).hex, conversation=context.run, parent=None, run=context.run, request=(),
        prompt=(1,), bounds=Bounds(), reply=reply, sampling={}, model="fake",
        generation=Generation((5,), (-1.0,), (1.0,), "end", 0),
        fingerprints={}, versions={}, timings={}, options={}, created="2026-01-01T00:00:00+00:00"))
    turn = store.turn(uuid5(RUNS, context.run).hex)
    os.write(1, b"recorded\\n")  # one write: lines of two threads never mix
    return turn

items = [row(item, source, Asked("text"), {}) for item in source.inputs()]
job = store.jobs.open("job", {})
store.jobs.release(job)
store.jobs.add(job, items)
shard = Shard(job, store, Conversion("job", store, ask, source, Destination(out)))
while sum(shard.work("w", 8).values()):
    pass
Destination(out).write_manifest(manifest_rows(all_items(store, job), [item.name for item in items]))
"""


def worker(database: str, source: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, database, str(source), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    # Every fifth input is the one before it once more; every ninth is bad.
    texts = [f"text {n - (n % 5 == 4)}{' bad' if n % 9 == 8 else ''}" for n in range(ITEMS)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    database, calm = f"sqlite:///{tmp_path}/killed.db", f"sqlite:///{tmp_path}/calm.db"
    for recorded in (3, 11, 5):
        process = worker(database, source, tmp_path / "killed")
        assert process.stdout is not None
        for _ in range(recorded):
            assert process.stdout.readline() == "recorded\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    for url, out in ((database, tmp_path / "killed"), (calm, tmp_path / "calm")):
        process = worker(url, source, out)
        process.communicate()
        assert process.returncode == 0
    assert manifest(tmp_path / "killed") == manifest(tmp_path / "calm")
    assert len(manifest(tmp_path / "killed")) == ITEMS
    done = {text for text in texts if "bad" not in text}
    with open_store(database) as store:
        assert len(store.turns(limit=1000)) == len(done)
