"""AnyGPTTool over a scripted model: short text for the agent, handles for its builder, mistakes as sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anyloom.anygpt_model.errors import MediaError
from anyloom.anygpt_model.media import write_png
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.handles import handles, to_array, to_block, to_bytes
from anyloom.graphs.tool import AnyGPTTool

PNG = write_png(np.full((8, 8, 3), 40, np.uint8))


@pytest.fixture
def tool(engine: Any, store: Any) -> AnyGPTTool:
    return AnyGPTTool(engine=engine, store=store)


def call(tool: AnyGPTTool, **args: Any) -> Any:
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": args})


def test_the_agent_reads_references_and_the_builder_gets_handles(tool: AnyGPTTool, engine: Any, store: Any) -> None:
    engine.will_say(Part(Modality.TEXT, text="here"), engine.span(Modality.IMAGE, 32))
    answer = call(tool, text="draw", to="image")
    [block] = answer.artifact["media"]
    assert answer.content.splitlines() == ["here", f"[image, 8 x 4, image/png: {block['file_id']}]"]
    assert to_array(store, block).shape == (4, 8, 3)
    assert store.turn(answer.artifact["turn"]).generation.seed == answer.artifact["seed"]
    assert len(str(answer)) < 3000


def test_handles_go_in_and_a_generated_one_is_never_tokenized(tool: AnyGPTTool, engine: Any, store: Any) -> None:
    engine.will_say(engine.span(Modality.IMAGE, 32, start=3))
    made = call(tool, text="draw").artifact["media"][0]["file_id"]
    answer = call(tool, text="what is this", media=[made])
    request = store.turn(answer.artifact["turn"]).request
    assert request[0].span.ids == engine.span(Modality.IMAGE, 32, start=3).span.ids
    assert engine.codec(Modality.IMAGE).encoded == 0


def test_mistakes_are_told_to_the_agent(tool: AnyGPTTool) -> None:
    for args in (
        {},
        {"text": "hello", "media": ["sha256:no"]},
        {"text": "hello", "voice": "nobody", "to": "speech"},
        {"text": "hello", "to": "smell"},
        {"text": "hello", "seed": "x"},
    ):
        answer = call(tool, **args)
        assert answer.status == "error"
        assert "\n" not in answer.content


def test_bytes_become_handles_and_come_back(store: Any, tmp_path: Any) -> None:
    from langchain_core.messages import HumanMessage

    (tmp_path / "a.png").write_bytes(PNG)
    block = to_block(store, tmp_path / "a.png")
    assert block == to_block(store, PNG) == to_block(store, str(tmp_path / "a.png"))
    with pytest.raises(MediaError, match=r"b\.png can't be read"):
        to_block(store, tmp_path / "b.png")
    assert handles(HumanMessage(content=[block, {"type": "text", "text": "x"}])) == [block]
    assert to_bytes(store, block) == PNG
