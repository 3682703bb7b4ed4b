"""Replay over the scripted model: the same ids make the same media, what was changed is named, forks go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from anyloom.anygpt_model.errors import InputError, ReplayError
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.playback import segment_starts
from anyloom.graphs.replay import diff, fork, recorded, regenerate
from anyloom.nodes.state import Context

TEXT = Modality.TEXT


def ask(engine: Any, store: Any, words: str = "draw", **options: Any) -> Any:
    engine.will_say(Part(TEXT, text="here it is"), engine.span(Modality.IMAGE, 32), engine.span(Modality.SPEECH, 6))
    result = build_graph(engine, store).invoke({"messages": [HumanMessage(words)]}, context=Context(**options))
    return store.turn(result["turn"])


def test_evicted_media_are_made_again_and_kept(engine: Any, store: Any) -> None:
    turn = ask(engine, store)
    assert len(store.evict()) == 2
    report = recorded(engine, store, turn.id[:8], restore=True)
    assert report.verdict == "identical"
    assert [check.present for check in report.media] == [False, False]
    assert set(report.restored) == {part.media.hash for part in turn.reply if part.media}
    assert all(store.get(hash) for hash in report.restored)
    assert len(store.turns()) == 1


def test_the_same_ids_are_decoded_once_unless_evicted_and_a_replay_always_decodes(engine: Any, store: Any) -> None:
    codec = engine.codec(Modality.SPEECH)
    first, second = (ask(engine, store, seed=3) for _ in range(2))
    assert [part.media for part in first.reply] == [part.media for part in second.reply]
    assert codec.decoded == 1
    assert recorded(engine, store, second.id).verdict == "identical"
    assert codec.decoded == 2
    store.evict()
    third = ask(engine, store, seed=3)
    assert codec.decoded == 3
    assert all(store.get(part.media.hash) for part in third.reply if part.media)
    ask(engine, store, seed=4)
    assert codec.decoded == 4


def test_a_changed_decoder_is_named_with_its_number(engine: Any, store: Any, monkeypatch: Any) -> None:
    turn = ask(engine, store)
    codec = engine.codec(Modality.IMAGE)
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda codes, **how: decode(codes, **how) // 2)
    report = recorded(engine, store, turn.id)
    assert report.verdict == "different"
    [finding] = report.findings
    assert finding.part == "decoder"
    assert 0.1 < finding.number < 1.0
    engine.fingerprints["image"] = "sha256:other"
    assert {finding.stored for finding in recorded(engine, store, turn.id).findings} >= {"sha256:image"}


def test_a_changed_tokenizer_is_an_error_with_its_position(engine: Any, store: Any, monkeypatch: Any) -> None:
    turn = ask(engine, store, "draw a red apple")
    encode = engine.vocabulary.encode
    monkeypatch.setattr(engine.vocabulary, "encode", lambda text: [*encode(text), 5])
    with pytest.raises(ReplayError, match="position"):
        recorded(engine, store, turn.id)


def test_the_memo_is_not_asked(engine: Any, store: Any) -> None:
    from base64 import b64encode

    from anyloom.anygpt_model.media import write_png

    picture = b64encode(write_png(np.zeros((4, 4, 3), np.uint8))).decode()
    block = {"type": "image", "base64": picture, "mime_type": "image/png"}
    result = build_graph(engine, store).invoke({"messages": [HumanMessage([block])]})
    recorded(engine, store, result["turn"])
    assert engine.codec(Modality.IMAGE).encoded == 2


def test_a_turn_with_history_is_replayed_with_it(engine: Any, store: Any) -> None:
    ask(engine, store, conversation="c")
    second = ask(engine, store, "what is this", conversation="c")
    assert second.parent
    assert recorded(engine, store, second.id).verdict == "identical"


def test_a_turn_after_foreign_messages_is_replayed_from_its_stored_prompt(engine: Any, store: Any) -> None:
    said = [HumanMessage("hello"), AIMessage("hello there"), HumanMessage("what")]
    result = build_graph(engine, store).invoke({"messages": said})
    assert recorded(engine, store, result["turn"]).verdict == "identical"


def test_regenerate_says_where_the_ids_part(engine: Any, store: Any) -> None:
    turn = ask(engine, store)
    engine.will_say(Part(TEXT, text="here it is"), engine.span(Modality.IMAGE, 32), engine.span(Modality.SPEECH, 6))
    assert regenerate(engine, store, turn.id).verdict == "identical"
    engine.will_say(Part(TEXT, text="here is"), engine.span(Modality.IMAGE, 32))
    report = regenerate(engine, store, turn.id)
    assert report.verdict == "different"
    assert report.findings[0].part == "sampler"
    assert 0 < report.findings[0].number < 5
    assert len(store.turns()) == 1


def test_a_fork_keeps_the_first_ids_and_begins_a_conversation(engine: Any, store: Any) -> None:
    turn = ask(engine, store)
    starts = segment_starts(turn.generation.ids, engine.vocabulary)
    assert len(starts) == 3
    engine.will_say(engine.span(Modality.MUSIC, 4))
    made = fork(engine, store, turn.id, segment=1, to="music", seed=9)
    assert made.generation.ids[: starts[1]] == turn.generation.ids[: starts[1]]
    assert [part.modality for part in made.reply] == [TEXT, Modality.MUSIC]
    assert (made.parent, made.generation.seed) == (turn.parent, 9)
    assert made.conversation != turn.conversation
    assert store.turn(made.id).options["forked_at"] == starts[1]
    assert recorded(engine, store, made.id).verdict == "identical"


def test_a_fork_elsewhere_than_in_the_reply_is_refused(engine: Any, store: Any) -> None:
    turn = ask(engine, store)
    for place in ({"at": 10_000}, {"segment": 3}, {"at": 1, "segment": 1}):
        with pytest.raises(InputError):
            fork(engine, store, turn.id, **place)
    engine.fingerprints["tokenizer"] = "sha256:other"
    with pytest.raises(InputError, match="Another model"):
        fork(engine, store, turn.id, at=3)


def test_diff_names_what_differs(engine: Any, store: Any) -> None:
    one, other = ask(engine, store, seed=1), ask(engine, store, seed=2)
    found = diff(store, one.id, other.id)
    assert found["settings"]["seed"] == [1, 2]
    assert found["reply"]["identical"]
    assert not found["media"]["image"][0]["identical"]
    assert 0 < found["media"]["image"][0]["distance"] < 0.1
    assert diff(store, one.id, one.id)["settings"] == {}


def test_an_altered_trace_is_found_by_its_hash(engine: Any, store: Any) -> None:
    from anyloom.graphs.replay import _altered

    turn = ask(engine, store)
    assert _altered(store, turn) == []
    ids = (turn.generation.ids[0] + 1, *turn.generation.ids[1:])
    [finding] = _altered(store, replace(turn, generation=replace(turn.generation, ids=ids)))
    assert finding.part == "record"
