"""A whole store of mixed turns: all generated media evicted, every turn made again and verified; then one thing altered
at a time, and each found and named with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.anygpt_model.values import Modality, Turn
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.handles import to_block
from anyloom.graphs.replay import DRIFT, Report, fork, recorded, regenerate, verify
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


class Altered:
    """A store that hands out one turn changed, as a hand in the database might have left it."""

    def __init__(self, store: Store, turn: Turn) -> None:
        self._store, self._turn = store, turn

    def turn(self, id: str) -> Turn:
        return self._turn if id == self._turn.id else self._store.turn(id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def spoken(tiny_engine: Any, store: Store) -> Turn:
    return say(tiny_engine, store, 1)


def found(report: Report, part: str) -> Any:
    """The one finding about a part."""
    assert report.verdict == "different"
    [finding] = [finding for finding in report.findings if finding.part == part]
    return finding


def last_code(turn: Turn) -> int:
    """Where in the reply the spoken span has its last code."""
    span = next(part.span.ids for part in turn.reply if part.span and part.modality is Modality.SPEECH)
    ids = turn.generation.ids
    start = next(at for at in range(len(ids)) if ids[at : at + len(span)] == span)
    return start + len(span) - 1


def other_id(turn: Turn, engine: Any) -> Turn:
    """The last code becomes its neighbour: legal there, and not what was drawn."""
    made, place = turn.generation, last_code(turn)
    codes = engine.vocabulary.range(Modality.SPEECH)
    other = codes.start + (made.ids[place] - codes.start + 1) % (codes.stop - codes.start)
    return replace(turn, generation=replace(made, ids=(*made.ids[:place], other, *made.ids[place + 1 :])))


def other_seed(turn: Turn, _engine: Any) -> Turn:
    return replace(turn, generation=replace(turn.generation, seed=turn.generation.seed + 1))


def other_temperature(turn: Turn, _engine: Any) -> Turn:
    sampling = {kind: replace(settings, temperature=0.05) for kind, settings in turn.sampling.items()}
    return replace(turn, sampling=sampling)


@pytest.mark.parametrize("alter", [other_id, other_seed, other_temperature])
def test_what_was_altered_in_the_record_is_named(
    alter: Callable[[Turn, Any], Turn], tiny_engine: Any, store: Store, spoken: Turn
) -> None:
    changed = alter(spoken, tiny_engine)
    report = verify(tiny_engine, Altered(store, changed), spoken.id)
    record = found(report, "record")
    assert record.stored == spoken.hash != record.now
    place = found(report, "sampler").number
    assert 0 <= place < len(spoken.generation.ids)
    if alter is other_id:
        assert place == last_code(spoken)
        assert str(changed.generation.ids[int(place)]) in found(report, "sampler").detail


def test_an_altered_hash_is_named_with_both_hashes(tiny_engine: Any, store: Store, spoken: Turn) -> None:
    forged = "t1:" + "0" * 64
    report = verify(tiny_engine, Altered(store, replace(spoken, hash=forged)), spoken.id)
    record = found(report, "record")
    assert (record.stored, record.now) == (forged, spoken.hash)
    assert len(report.findings) == 1


@contextmanager
def nudged(tensor: torch.Tensor, by: float) -> Iterator[None]:
    """One number of a weight moved in memory; its file, and so its fingerprint, stays as it was."""
    flat = tensor.detach().view(-1)
    before = float(flat[0])
    flat[0] += by
    try:
        yield
    finally:
        flat[0] = before


def places(llama: Any) -> dict[str, tuple[torch.Tensor, float]]:
    """Weights of all kinds, and by how much one number of each is moved: from what changes the first draw to what
    changes none."""
    return {
        "norm": (llama.norm, 50.0),
        "layers.0.attention_norm": (llama.layers[0].attention_norm, 1.0),
        "layers.1.down": (llama.layers[1].down.tensors[0], 1e-7),
        "layers.0.qkv": (llama.layers[0].qkv.tensors[0], 3.0),
    }


@pytest.mark.parametrize("place", ["norm", "layers.0.attention_norm", "layers.1.down", "layers.0.qkv"])
def test_one_weight_changed_in_memory_is_named(place: str, tiny_engine: Any, store: Store, spoken: Turn) -> None:
    tensor, by = places(tiny_engine.language_model.llama)[place]
    with torch.inference_mode(), nudged(tensor, by):
        report = verify(tiny_engine, store, spoken.id)
        again = regenerate(tiny_engine, store, spoken.id)
    finding = found(report, "weights")
    assert finding.detail.startswith(f"{place} changed in memory")
    assert finding.stored is None
    assert 0 <= finding.number < 1e3
    assert (finding.number > DRIFT) == (place != "layers.1.down")
    assert found(again, "weights").number == 1
    assert verify(tiny_engine, store, spoken.id).verdict == "identical"


def test_weights_that_were_others_when_they_were_loaded_are_named_by_their_drift(
    tiny_engine: Any, store: Store, spoken: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded can't tell; the first id is drawn otherwise, and still the weights are named."""
    monkeypatch.setattr(tiny_engine, "changed_weights", lambda part: ())
    with torch.inference_mode(), nudged(tiny_engine.language_model.llama.norm, 50.0):
        report = verify(tiny_engine, store, spoken.id)
    assert report.verification is not None
    assert report.verification.divergence is not None
    assert found(report, "weights").number > DRIFT


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_codec_weight_changed_in_memory_is_named_by_its_distance(
    number: int, tiny_engine: Any, store: Store
) -> None:
    turn = say(tiny_engine, store, number)
    assert recorded(tiny_engine, store, turn.id).verdict == "identical"
    weight = last_weight(tiny_engine.codec(KINDS[number]))
    with torch.no_grad(), nudged(weight, 0.5):
        report = recorded(tiny_engine, store, turn.id)
    finding = found(report, "decoder")
    assert 0 < finding.number <= 1
    assert finding.stored is None
    assert finding.detail.startswith(KINDS[number])
    assert "bias changed in memory" in finding.detail
    assert recorded(tiny_engine, store, turn.id).verdict == "identical"


def test_one_codec_weight_that_changes_no_sample_is_named(tiny_engine: Any, store: Store) -> None:
    turn = say(tiny_engine, store, 1)
    [first, *_] = modules_of(tiny_engine.codec("speech"), 3)
    weight = next(tensor for name, tensor in first.named_parameters() if name.startswith("encoder"))
    with torch.no_grad(), nudged(weight, 1e-3):
        report = recorded(tiny_engine, store, turn.id)
    assert found(report, "decoder").number == 1
    assert all(check.identical for check in report.media)


def last_weight(codec: Any) -> torch.Tensor:
    """A bias of the last layer of the network that makes a codec's pixels or samples."""
    networks = modules_of(codec, 3)
    biases = [
        parameter
        for network in networks
        for name, parameter in network.named_parameters()
        if name.endswith("bias") and ("decoder.conv_out" in name or "decoder." in name)
    ]
    assert biases, f"{codec} has no decoder that this test knows"
    return biases[-1]


def modules_of(thing: Any, depth: int) -> list[torch.nn.Module]:
    """The networks that an object holds."""
    if isinstance(thing, torch.nn.Module):
        return [thing]
    values = list(vars(thing).values()) if depth and hasattr(thing, "__dict__") else []
    return [module for value in values for module in modules_of(value, depth - 1)]
