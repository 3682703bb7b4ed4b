"""A whole store of mixed turns: all generated media evicted, every turn made again and verified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.anygpt_model.values import Modality, Turn
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.handles import to_block
from anyloom.graphs.replay import fork, recorded, verify
from anyloom.nodes.state import Context
from anyloom.storage.store import Store

pytestmark = pytest.mark.slow
KINDS = ("image", "speech", "music", "text")
LENGTH = 4
"""Turns of a conversation."""


def content(store: Store, number: int) -> list[Any]:
    """What turn `number` asks: words, and mostly a medium that differs from turn to turn."""
    given = KINDS[number // 4 % 4]
    words = {"type": "text", "text": f"hello {number}"}
    if given == "text":
        return [words]
    if given == "image":
        return [to_block(store, write_png(np.full((8, 8, 3), number % 250, np.uint8))), words]
    sound = np.sin(np.arange(3200) / (3 + number % 40)).astype(np.float32)
    return [to_block(store, write_wav(sound, 16_000), given), words]


def say(engine: Any, store: Store, number: int) -> Turn:
    """One turn: every modality is asked of every modality in the first sixteen."""
    context = Context(
        to=KINDS[number % 4],
        modalities=("text", KINDS[number % 4]),
        seed=number,
        max_tokens=80,
        max_seconds=0.2,
        max_segments=1,
        conversation=f"conversation {number // LENGTH}",
        sampling={"text": {"temperature": 0.7 + number % 3 / 10}},
    )
    result = build_graph(engine, store).invoke({"messages": [HumanMessage(content(store, number))]}, context=context)
    return store.turn(result["turn"])


def all_come_out_as_they_were(engine: Any, store: Store, count: int) -> None:
    turns = [say(engine, store, number) for number in range(count)]
    forked = [fork(engine, store, turns[number].id, at=1, seed=99 + number) for number in (1, 6)]
    media = {part.media.hash for turn in [*turns, *forked] for part in turn.reply if part.media}
    made = {kind for turn in turns for kind in (part.modality for part in turn.reply if part.media)}
    assert made == {Modality.IMAGE, Modality.SPEECH, Modality.MUSIC}
    assert set(store.evict()) == media
    for turn in [*turns, *forked]:
        report = recorded(engine, store, turn.id, restore=True)
        assert report.verdict == "identical", report.findings
        assert [check.identical for check in report.media] == [True] * sum(
            part.media is not None for part in turn.reply
        )
        proof = verify(engine, store, turn.id)
        assert (proof.verdict, proof.findings) == ("identical", ()), turn.id
        assert proof.verification is not None
        assert proof.verification.divergence is None
        assert proof.verification.drift < 1e-4
    assert all(store.media.present(name) for name in media)
    assert len(store.turns(limit=1000)) == count + len(forked)
    assert store.verify_chain().holds


def test_every_turn_of_a_mixed_store_is_made_again(tiny_engine: Any, store: Store) -> None:
    all_come_out_as_they_were(tiny_engine, store, 40)


@pytest.mark.soak
def test_every_turn_of_a_large_mixed_store_is_made_again(tiny_engine: Any, store: Store) -> None:
    all_come_out_as_they_were(tiny_engine, store, 200)
