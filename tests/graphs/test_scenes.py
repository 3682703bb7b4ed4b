"""The real pocket draws a scene, changes it in a second turn, sees it again and says what it sees."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

import anyloom
from anyloom.anygpt_model.codecs.gaze import look
from anyloom.anygpt_model.codecs.scene import GROUNDS, LAYOUTS
from anyloom.anygpt_model.media import write_png
from anyloom.graphs.handles import handles, to_array
from anyloom.nodes.state import Context

pytestmark = pytest.mark.slow
Draw = Callable[..., tuple[np.ndarray, list[Any]]]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("home")
    with anyloom.load_engine("pocket", device="cpu") as engine, anyloom.open_store(folder / "turns.db") as store:
        yield anyloom.build_graph(engine, store), store


@pytest.fixture(scope="module")
def draw(graph: Any) -> Draw:
    chat, store = graph

    def drawn(asked: str, before: list[Any] | None = None) -> tuple[np.ndarray, list[Any]]:
        messages = [*(before or []), HumanMessage(asked)]
        said = chat.invoke({"messages": messages}, context=Context(to="image", seed=1))["messages"]
        (block,) = handles(said[-1])
        return to_array(store, block), said

    return drawn


def seen(picture: np.ndarray) -> tuple[str, str]:
    found = look(picture)
    return list(GROUNDS)[found.ground], LAYOUTS[found.layout].name


def described(graph: Any, picture: np.ndarray) -> str:
    block = {"type": "image", "base64": b64encode(write_png(picture)).decode(), "mime_type": "image/png"}
    message = HumanMessage([block, {"type": "text", "text": "What is this?"}])
    said = graph[0].invoke({"messages": [message]}, context=Context(to="text", seed=1))["messages"][-1]
    return str(said.text).strip()


@pytest.mark.parametrize(
    ("asked", "ground", "layout"),
    [
        ("a dog to the left of a red apple on a blue background", "blue", "beside"),
        ("a cat above a pizza", "white", "above"),
        ("a guitar on the right on a yellow background", "yellow", "right"),
        ("an umbrella on a grey background", "grey", "whole"),
    ],
)
def test_a_scene_is_drawn_and_what_is_drawn_is_seen(
    graph: Any, draw: Draw, asked: str, ground: str, layout: str
) -> None:
    picture, _ = draw(f"draw {asked}")
    assert seen(picture) == (ground, layout)
    said = described(graph, picture)
    for word in ("dog", "apple", "cat", "pizza", "guitar", "umbrella"):
        assert (f" {word}" in said) == (f" {word}" in asked), said
    assert said.endswith(f"on a {ground} background") == (ground != "white")


def test_a_second_turn_changes_ground_and_adds_a_thing(draw: Draw) -> None:
    first, said = draw("draw a flat picture of a red apple")
    assert seen(first) == ("white", "whole")
    green, _ = draw("Now put it on a green background.", said)
    assert seen(green) == ("green", "whole")
    middle = np.s_[48:80, 48:80]
    assert np.abs(green[middle].astype(int) - first[middle]).mean() < 12, "the apple stays"
    two, _ = draw("Put a dog to the right of it.", said)
    assert seen(two) == ("white", "beside")
