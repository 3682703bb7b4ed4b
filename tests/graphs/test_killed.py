"""A process killed with -9 in the middle of a run: another process goes on from the checkpoint, and the answer is that
of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
STOPS = ("tokenize_image", "generate", "detokenize_image", "record")
"""The nodes that a process is killed in; in `record` the turn is written and the checkpoint does not know."""
WORKER = """
import asyncio, importlib.util, json, os, signal, sys, time

mode, folder, conftest, *names = sys.argv[1:]
spec = importlib.util.spec_from_file_location("fakes", conftest)
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)

import numpy as np
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from anyloom.anygpt_model.media import write_png
from anyloom.anygpt_model.values import Modality
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.handles import to_block
from anyloom.nodes.state import Context
from anyloom.storage.store import open_store

words = fakes.vocabulary.__wrapped__()

class Run:
    def __init__(self, kind, name, begins):
        self.kind = kind
        self.store = open_store(f"{folder}/{kind}-{name}.db")
        self.engine = fakes.FakeEngine(words)
        self.call = {"input": None}  # whoever resumes a run need not know how it began
        if begins:
            picture = to_block(self.store, write_png(np.full((8, 8, 3), 70, np.uint8)))
            asked = HumanMessage([picture, {"type": "text", "text": "draw it again"}])
            context = Context(to="image", seed=5, max_tokens=300)
            self.call = {"input": {"messages": [asked]}, "context": context}
        self.call |= {"config": {"configurable": {"thread_id": "t"}}, "durability": "sync"}
        self.saved = f"{folder}/{kind}-{name}.checkpoints"

    def stops_in(self, node):
        codec, model = self.engine.codec(Modality.IMAGE), self.engine.language_model
        owner, name = {"tokenize_image": (codec, "encode"), "generate": (model, "generate"),
                       "detokenize_image": (codec, "decode"), "record": (self.store, "record")}[node]
        work = getattr(owner, name)
        def hanging(*args, **kwargs):
            if node == "record":
                work(*args, **kwargs)
            os.write(said, b"!")
            time.sleep(60)
        setattr(owner, name, hanging)

    def answer(self):
        if self.kind == "async":
            result = asyncio.run(self.awaited())
        else:
            with SqliteSaver.from_conn_string(self.saved) as saver:
                result = build_graph(self.engine, self.store, saver).invoke(**self.call)
        turn = self.store.turn(result["turn"])
        made = [[part.modality.value, part.text, part.media and part.media.hash] for part in turn.reply]
        return {"reply": made, "ids": turn.generation.ids, "prompt": turn.prompt, "to": turn.bounds.to,
                "max_tokens": turn.bounds.max_tokens, "seed": turn.generation.seed, "turns": len(self.store.turns()),
                "said": result["messages"][-1].text, "asked": len(self.engine.language_model.requests)}

    async def awaited(self):
        async with AsyncSqliteSaver.from_conn_string(self.saved) as saver:
            return await build_graph(self.engine, self.store, saver).ainvoke(**self.call)

def killed(kind, name):
    global said
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        run = Run(kind, name, True)
        run.stops_in(name)
        run.answer()
        os._exit(1)
    os.close(said)
    assert os.read(heard, 1) == b"!", name
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

for kind in ("sync", "async"):
    for name in names:
        if mode == "kill":
            killed(kind, name)
        else:
            print(json.dumps(Run(kind, name, name == "calm").answer()), flush=True)
"""


def worker(*arguments: str) -> list[dict[str, Any]]:
    """Runs killed in the nodes of their names, or resumed, by a process of their own; "calm" is asked for anew."""
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *arguments], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_another_process_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    where = (str(tmp_path), str(Path(__file__).with_name("conftest.py")))
    assert worker("kill", *where, *STOPS) == []
    told = worker("resume", *where, "calm", *STOPS)
    for calm, *resumed in (told[:5], told[5:]):  # with the sync saver, with the async one
        assert [modality for modality, _, _ in calm["reply"]] == ["text", "image"]
        assert (calm["to"], calm["max_tokens"], calm["seed"], calm["turns"]) == ("image", 300, 5, 1)
        # What came after the model is not asked of it again.
        assert [run.pop("asked") for run in (calm, *resumed)] == [1, 1, 1, 0, 0]
        assert resumed == [calm] * len(STOPS)
