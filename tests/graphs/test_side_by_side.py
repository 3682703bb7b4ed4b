"""Turns made side by side are the turns that the graph makes; one that can't be made disturbs no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.errors import Busy, ContextFull, InputError
from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.anygpt_model.values import Turn
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.handles import to_block
from anyloom.graphs.side_by_side import SideBySide, in_parts
from anyloom.nodes.state import Context
from anyloom.storage.store import memory_store


def asked(store: Any) -> list[tuple[HumanMessage, Context]]:
    picture = to_block(store, write_png(np.full((8, 8, 3), 90, np.uint8)))
    sound = to_block(store, write_wav(np.sin(np.arange(16_000) / 9).astype(np.float32), 16_000), "speech")
    contents: list[Any] = [
        "hello there",
        [picture, {"type": "text", "text": "what is this"}],
        [sound],
        "play a tune",
        "here it is",
    ]
    targets = ("text", "text", "speech", "music", "image")
    return [
        (HumanMessage(content), Context(to=to, seed=n, run=f"run {n}", conversation=f"c {n}", max_tokens=200))
        for n, (content, to) in enumerate(zip(contents, targets, strict=True))
    ]


def plain(turn: Turn) -> Turn:
    """The turn without what the clock says, and the hash over it."""
    return replace(turn, timings={}, created="", hash=None)


def test_turns_are_those_of_the_graph(engine: Any, store: Any) -> None:
    with memory_store() as other:
        graph = build_graph(engine, other)
        alone = [
            other.turn(graph.invoke({"messages": [message]}, context=context)["turn"])
            for message, context in asked(other)
        ]
        together = SideBySide(engine, store).turns(asked(store))
        assert [plain(turn) for turn in together if isinstance(turn, Turn)] == [plain(turn) for turn in alone]
        for turn, one in zip(together, alone, strict=True):
            assert isinstance(turn, Turn)
            assert store.turn(turn.id) == turn
            assert set(turn.timings) == set(one.timings) - {"record"}
            for part in turn.reply:
                assert part.media is None or store.get(part.media.hash) == other.get(part.media.hash)
    assert store.verify_chain().holds


def test_what_one_fails_of_is_its_own(engine: Any, store: Any) -> None:
    messages = [(HumanMessage("hello"), Context(run="a")), (HumanMessage(""), Context(run="b"))]
    messages += [(HumanMessage("hello there friend " * 400), Context(run="c")), (HumanMessage("hello"), Context(to="speech", voice="nobody", run="d"))]  # fmt: skip  # noqa: E501
    messages += [(HumanMessage("good"), Context(run="e"))]
    told = SideBySide(engine, store).turns(messages)
    assert [type(entry).__name__ for entry in told] == ["Turn", "InputError", "ContextFull", "UnknownName", "Turn"]
    assert len(store.turns()) == 2


def test_what_the_model_refuses_of_some_is_made_of_the_others(engine: Any, store: Any) -> None:
    model, calls = engine.language_model, []

    class Picky:
        def generate(self, requests: Any, on_token: Any = None, cancelled: Any = None) -> Any:
            calls.append(len(requests))
            if any(request.seed == 3 for request in requests):
                raise ContextFull("Too long.")
            return model.generate(requests)

    engine.language_model = Picky()
    messages = [(HumanMessage("hello"), Context(seed=n, run=str(n))) for n in range(5)]
    told = SideBySide(engine, store).turns(messages)
    assert [isinstance(turn, Turn) for turn in told] == [True, True, True, False, True]
    assert calls == [5, 2, 3, 1, 2, 1, 1][: len(calls)]


def test_who_is_cancelled_leaves_nothing_behind(engine: Any, store: Any) -> None:
    assert SideBySide(engine, store).turns([(HumanMessage("hello"), Context())], lambda: True) == [None]
    assert store.turns() == []


def test_what_is_nobodys_fault_is_everybodys_end() -> None:
    def work(given: Any) -> Any:
        raise Busy("Full.") if len(given) > 1 else InputError("No.")

    assert [type(error) for error in in_parts([1, 2, 3], work)] == [Busy] * 3
    assert [type(error) for error in in_parts([1], work)] == [InputError]
    assert in_parts([], work) == []
