"""Thirty-two turns at once over one open pocket model: each gets the answer it would have got alone, and its own
events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.engine import load_engine
from anyloom.graphs.conversation import build_graph
from anyloom.nodes.state import Context
from anyloom.storage.store import memory_store

pytestmark = pytest.mark.soak
MANY = 32
MEDIA = {5: "speech"}
"""The turn that demands a medium; the others are texts."""


@pytest.fixture(scope="module")
def pocket() -> Iterator[Any]:
    # Without caches of earlier turns a reply doesn't depend, by a rounding, on what came before it.
    with load_engine("pocket", device="cpu", prefix_bytes=0) as engine:
        yield engine


def asked(number: int) -> tuple[Any, Context]:
    to = MEDIA.get(number)
    words = f"What is {number}?"
    text = {"max_tokens": 8, "modalities": ("text",), "temperature": 3.0}  # hot: thirty-two different answers
    limits = {"max_tokens": 60, "max_seconds": 0.5} if to else text
    return {"messages": [HumanMessage(words)]}, Context(to=to, seed=number, conversation=f"c{number}", **limits)


def content(turn: Any) -> Any:
    """What may not differ between a turn made alone and among others."""
    made = [(part.modality, part.text, part.media and part.media.content) for part in turn.reply]
    return [part.text for part in turn.request], turn.prompt, turn.generation.ids, turn.conversation, made


async def test_each_of_many_gets_its_own_answer_and_its_own_events(pocket: Any) -> None:
    with memory_store() as alone, memory_store() as together:
        graph = build_graph(pocket, alone)
        wanted = []
        for number in range(MANY):
            request, context = asked(number)
            wanted.append(content(alone.turn(graph.invoke(request, context=context)["turn"])))
        shared = build_graph(pocket, together)

        async def one(number: int) -> tuple[str, list[Any]]:
            request, context = asked(number)
            steps = shared.astream(request, context=context, stream_mode=["custom", "values"])
            seen = [step async for step in steps]
            state = [item for mode, item in seen if mode == "values"][-1]
            return state["turn"], [item for mode, item in seen if mode == "custom"]

        told = await asyncio.gather(*map(one, range(MANY)))
        turns = [together.turn(turn) for turn, _ in told]
        assert [content(turn) for turn in turns] == wanted
        assert len({turn.generation.ids for turn in turns}) > MANY // 2
        assert len(together.turns(limit=1000)) == MANY
        for turn, (_, events) in zip(turns, told, strict=True):
            assert [event["count"] for event in events if event["event"] == "token"] == [
                *range(1, len(turn.generation.ids) + 1)
            ]
            text = "".join(event["text"] for event in events if event.get("event") == "token" and event["text"])
            assert text.split() == " ".join(part.text for part in turn.reply if part.text).split()
            assert events[-1]["turn"] == turn.id
