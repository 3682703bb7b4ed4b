"""Verification with a real language model of random weights: nothing diverges untouched, what was altered is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from anyloom.graphs.conversation import build_graph
from anyloom.graphs.replay import fork, regenerate, verify
from anyloom.nodes.state import Context

pytestmark = pytest.mark.slow


class Altered:
    """A store that hands out one turn changed, as a hand in the database might have left it."""

    def __init__(self, store: Any, turn: Any) -> None:
        self._store, self._turn = store, turn

    def turn(self, id: str) -> Any:
        return self._turn if id == self._turn.id else self._store.turn(id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def turn(tiny_engine: Any, store: Any) -> Any:
    context = Context(modalities=("text", "speech"), max_tokens=60, max_seconds=0.2, seed=5)
    result = build_graph(tiny_engine, store).invoke({"messages": [HumanMessage("hello there")]}, context=context)
    return store.turn(result["turn"])


def test_an_untouched_trace_has_no_divergence(tiny_engine: Any, store: Any, turn: Any) -> None:
    report = verify(tiny_engine, store, turn.id)
    assert (report.verdict, report.findings) == ("identical", ())
    assert len(report.verification.margins) == len(turn.generation.ids)
    assert report.verification.drift < 1e-4
    assert regenerate(tiny_engine, store, turn.id).verdict == "identical"


def test_altered_records_are_found_and_the_first_redone_difference_named(
    tiny_engine: Any, store: Any, turn: Any
) -> None:
    made = turn.generation
    other = next(token for token in (10, 11, 12, 13) if token != made.ids[4])
    sampling = {kind: replace(value, temperature=0.3) for kind, value in turn.sampling.items()}
    for changed in (
        replace(turn, generation=replace(made, ids=(*made.ids[:4], other, *made.ids[5:]))),
        replace(turn, generation=replace(made, seed=made.seed + 1)),
        replace(turn, sampling=sampling),
        replace(turn, hash="t1:" + "0" * 64),
    ):
        report = verify(tiny_engine, Altered(store, changed), turn.id)
        assert report.verdict == "different"
        assert report.findings[0].part == "record"
    assert {"sampler"} <= {
        finding.part
        for finding in verify(tiny_engine, Altered(store, replace(turn, sampling=sampling)), turn.id).findings
    }


def test_a_changed_weight_is_named_by_its_drift(tiny_engine: Any, store: Any, turn: Any) -> None:
    norm = tiny_engine.language_model.llama.norm
    before = norm.clone()
    norm[3] += 0.5
    try:
        report = verify(tiny_engine, store, turn.id)
    finally:
        norm.copy_(before)
    assert report.verdict != "identical"
    [finding] = [finding for finding in report.findings if finding.part == "weights"]
    assert finding.number > 1e-3


def test_a_fork_verifies_like_any_turn(tiny_engine: Any, store: Any, turn: Any) -> None:
    made = fork(tiny_engine, store, turn.id, at=5, seed=77)
    assert made.generation.ids[:5] == turn.generation.ids[:5]
    assert verify(tiny_engine, store, made.id).verdict == "identical"
