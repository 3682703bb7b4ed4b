"""Documents never lag the code: commands, nodes, modalities and the drawn graph are in the README; its paths exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anyloom.anygpt_model.values import Modality

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands():
    from anyloom.app.cli import COMMANDS
    from anyloom.app.traces import traces

    return [f"anyloom {name}" for name in COMMANDS] + [f"traces {name}" for name in traces.commands]


def test_every_command_is_in_the_readme():
    assert not [name for name in commands() if name not in README]


@pytest.mark.parametrize("modality", list(Modality))
def test_every_modality_is_in_the_readme(modality):
    assert modality.value in README


def test_the_drawn_graph_is_the_graph(llm_engine):
    from anyloom import build_graph

    graph = build_graph(llm_engine)
    drawn = graph.get_graph().draw_mermaid()
    told = re.search(r"<!-- graph:begin.*?-->\n```mermaid\n(.*?)\n```\n<!-- graph:end -->", README, re.S)
    assert told is not None
    assert told.group(1).strip() == drawn.strip()
    missing = [name for name in graph.nodes if not name.startswith("__") and f"`{name}`" not in README]
    assert not missing


def test_paths_that_the_readme_links_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_changelog_names_this_version():
    from anyloom import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


DOCUMENTS = [ROOT / name for name in ("README.md", "NOTICE", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_machine(path):
    assert not re.findall(r"/(?:home|work|root|tmp)/\S+", path.read_text(encoding="utf-8"))
