"""Each example runs as it stands, over the pocket."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: Any) -> Any:
    """Run an example's main in a home of its own."""
    monkeypatch.setenv("ANYLOOM_HOME", str(tmp_path / "home"))

    def run(name: str, *args: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main(*args)

    return run


def test_an_agent_gets_a_handle_and_no_bytes(example: Any) -> None:
    answer = example("agent_with_a_tool")
    assert "sha256:" in answer.content
    assert answer.artifact["media"]
    assert len(answer.content) < 2000


def test_a_subgraph_shares_one_conversation(example: Any) -> None:
    assert [message.type for message in example("a_subgraph")] == ["human", "human", "ai", "human", "human", "ai"]


def test_streamed_speech_becomes_a_file(example: Any, tmp_path: Path) -> None:
    files = example("streaming_chat", "pocket", str(tmp_path / "out"))
    assert files
    assert all(file.read_bytes()[:4] == b"RIFF" for file in files)


def test_many_agents_each_get_what_they_asked_for(example: Any) -> None:
    made = example("many_agents_one_engine")
    assert all(
        kind in made[name] for name, kind in {"painter": "image", "singer": "music", "speaker": "speech"}.items()
    )


def test_an_mcp_client_gets_words_and_reads_the_picture(example: Any) -> None:
    pytest.importorskip("mcp")
    words, size = example("mcp_client")
    assert "[image" in words
    assert size > 100
