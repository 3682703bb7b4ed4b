"""What nodes are wrapped in, and what merges their results: timings, cancelling, order, packing."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.types import Overwrite

from anyloom.anygpt_model.errors import InputError, UnknownName
from anyloom.anygpt_model.values import Generation, Media, Modality, Part
from anyloom.nodes import timing
from anyloom.nodes.generation import unheard
from anyloom.nodes.messages import blocks, part_blocks
from anyloom.nodes.options import bounds, check_kinds, sampling
from anyloom.nodes.packing import pack, pack_ids, unpack, unpack_ids
from anyloom.nodes.state import (
    Context,
    add_timings,
    by_position,
    options_state,
    options_value,
    part_state,
    part_value,
)
from anyloom.nodes.timing import Cancellable, timed


def test_seconds_are_added_and_a_reset_stays_one() -> None:
    update = timed("draw", lambda state, config, runtime: {"x": 1})({}, {}, None)
    assert update["x"] == 1
    assert update["timings"]["draw"] >= 0
    reset = timed("detect", lambda state, config, runtime: {"timings": Overwrite({})})({}, {}, None)["timings"]
    assert isinstance(reset, Overwrite)
    assert list(reset.value) == ["detect"]
    assert add_timings({"a": 1.0, "b": 2.0}, {"a": 0.5}) == {"a": 1.5, "b": 2.0}


async def test_a_cancelled_task_tells_the_thread_that_works_for_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(timing, "get_runtime", lambda _: None)
    started, ended = threading.Event(), threading.Event()

    def node(state: Any, config: Any, runtime: Any, *, cancelled: Any = None) -> Any:
        started.set()
        while not cancelled():
            threading.Event().wait(0.001)
        ended.set()
        return {}

    task = asyncio.create_task(Cancellable("long", node).ainvoke({}))
    assert await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_parallel_results_merge_in_any_order(order: list[int], cut: int) -> None:
    items = [{"position": place, "value": place * place} for place in order]
    merged = by_position(by_position([], items[:cut]), items[cut:])
    assert [item["value"] for item in merged] == [place * place for place in range(6)]
    again = by_position(merged, [{"position": 2, "value": "retried"}])
    assert [item["value"] for item in again] == [0, 1, "retried", 9, 16, 25]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.floats(-50, 0, width=32), st.floats(0, 50, width=32))))
def test_scores_travel_without_loss(made: list[tuple[int, float, float]]) -> None:
    ids, logprobs, margins = ([row[at] for row in made] for at in range(3))
    generation = Generation(tuple(ids), tuple(logprobs), tuple(margins), "length", 3)
    assert unpack(pack(generation), 3) == generation


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_ids_travel_without_loss(ids: list[int]) -> None:
    assert list(unpack_ids(pack_ids(ids))) == ids


def test_a_prompt_of_codes_is_smaller_than_its_list() -> None:
    codes = np.random.default_rng(1).integers(41_000, 42_024, 2_000).tolist()
    assert len(pack_ids(codes)) < 2.1 * len(codes)  # a list's ids take three bytes each in msgpack


def test_a_part_travels_without_loss() -> None:
    media = Media("sha256:a", "sha256:b", "audio/wav", 10, duration=1.5, sample_rate=16_000)
    for part in (
        Part(Modality.TEXT, text="hello", kind="transcript"),
        Part(Modality.SPEECH, media=media, generated=True, seed=4),
    ):
        assert part_value(part_state(part, 0, 0, "user")) == part


def test_one_medium_of_several_spans_is_one_block() -> None:
    part = Part(Modality.MUSIC, media=Media("sha256:a", "sha256:b", "audio/wav", 10, duration=7.0))
    assert len(part_blocks([part, part])) == 1


def test_data_in_a_url_is_base64_and_other_urls_stay() -> None:
    from langchain_core.messages import HumanMessage

    urls = ["data:image/png;base64,AAAA", "https://example.org/;base64,AAAA", "data:image/png,AAAA"]
    made = blocks(HumanMessage(content=[{"type": "image", "url": url} for url in urls]))
    assert [block.get("base64") for block in made] == ["AAAA", None, None]


def test_a_plain_text_is_the_block_that_langchain_makes_of_it() -> None:
    from langchain_core.messages import HumanMessage

    for text in ("a cat", " ", ""):
        assert blocks(HumanMessage(text)) == HumanMessage(text).content_blocks


def test_settings_of_a_modality_win_over_the_calls() -> None:
    chosen = sampling(Context(temperature=0.5, sampling={"music": {"top_k": 9}}))
    assert chosen[Modality.MUSIC].top_k == 9
    assert {one.temperature for one in chosen.values()} == {0.5}
    for options, error in (
        (Context(sampling={"smell": {}}), UnknownName),
        (Context(sampling={"music": {"heat": 1}}), UnknownName),
        (Context(top_p=0.0), InputError),
        (Context(temperature=float("nan")), InputError),
        (Context(temperature="hot"), InputError),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            sampling(options)
    for wrong in ({"max_segments": 0}, {"max_tokens": "9"}, {"max_tokens": 2.5}, {"max_seconds": float("inf")}):
        with pytest.raises(InputError, match="above 0"):
            bounds(Context(**wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"voice": 5},
        {"conversation": 5},
        {"parent": 5},
        {"run": 5},
        {"template": ["base"]},
        {"instruction": 5},
        {"to": ["image"]},
        {"modalities": 5},
        {"modalities": ()},
        {"sampling": 5},
        {"sampling": {"text": 5}},
    ],
)
def test_an_option_of_another_kind_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} .* came; .* taken") as caught:
        check_kinds(Context(**wrong))
    assert "\n" not in str(caught.value)


def test_options_come_back_as_they_were_sent_and_one_modality_may_be_a_bare_name() -> None:
    for options in (Context(), Context(modalities=["text", "image"], seed=0, sampling={"text": {"top_k": 3}})):
        assert options_value(json.loads(json.dumps(options_state(options)))) == options
    assert options_state(Context()) == {}
    assert Context(modalities="speech").modalities == ("speech",)  # type: ignore[arg-type]


def test_nobody_is_woken_where_nobody_listens() -> None:
    assert unheard(lambda event: None)
    assert not unheard([].append)
    assert not unheard(print)
    assert not unheard(lambda event: print(event))
