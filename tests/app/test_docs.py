"""Documents that cannot lie: every command, node, modality and flow is named, and the README's graph is the graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anyloom.anygpt_model.values import Modality
from anyloom.app.cli import COMMANDS
from anyloom.graphs.conversation import MEDIA, build_graph

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = README + "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))


class NoEngine:
    """Enough to assemble a graph."""


def drawn() -> str:
    engine: Any = NoEngine()
    return str(build_graph(engine, engine).get_graph().draw_mermaid())


def test_the_graph_in_the_readme_is_the_graph() -> None:
    shown = re.search(r"<!-- graph:begin.*?```mermaid\n(.*?)```\n<!-- graph:end", README, re.DOTALL)
    assert shown is not None
    assert shown[1].split() == drawn().split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"anyloom {command}" in DOCUMENTS


def test_every_subcommand_is_documented() -> None:
    from anyloom.app.traces import traces

    assert [name for name in traces.commands if name not in DOCUMENTS] == []


@pytest.mark.parametrize(
    "word", [*Modality, "detect", "generate", "route", "record", *(f"tokenize_{m}" for m in MEDIA)]
)
def test_every_modality_and_node_is_documented(word: str) -> None:
    assert word in DOCUMENTS


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_short(example: Path) -> None:
    assert 20 <= len(example.read_text(encoding="utf-8").splitlines()) <= 30


def test_the_reference_of_commands_is_their_own_help() -> None:
    from anyloom.app.reference import reference

    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m anyloom.app.reference > docs/commands.md"
