"""What `langgraph dev` opens: the graph that langgraph.json names, over the model and database of the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anyloom.storage.store import open_store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SERVER = """
import json, sys
from importlib import import_module

module, name = sys.argv[1].split(":")
graph = getattr(import_module(module), name)
result = graph.invoke({"messages": [("user", "hello")]}, context={"seed": 3, "modalities": ["text"], "max_tokens": 8})
print(json.dumps([result["turn"], graph.get_input_jsonschema(), graph.get_context_jsonschema()]))
"""


def test_the_graph_that_langgraph_json_names(tiny_folder: Path, tmp_path: Path) -> None:
    named = json.loads((ROOT / "langgraph.json").read_text("utf-8"))["graphs"]["anyloom"]
    known = {"ANYLOOM_MODEL": str(tiny_folder), "ANYLOOM_HOME": str(tmp_path), "ANYLOOM_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, named], env={**os.environ, **known}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    turn, taken, options = json.loads(done.stdout.splitlines()[-1])
    assert list(taken["properties"]) == ["messages"]
    assert {"to", "seed", "voice"} <= options["properties"].keys()
    with open_store(home=tmp_path) as store:
        assert store.turn(turn).generation.seed == 3
