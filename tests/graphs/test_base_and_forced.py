"""Prompts of a base model and replies that are one medium and nothing else, through the whole graph."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from anyloom.anygpt_model import dialogue
from anyloom.anygpt_model.dialogue import Message
from anyloom.anygpt_model.errors import InputError, UnknownName
from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.replay import fork, recorded
from anyloom.nodes.state import Context

TEXT, IMAGE, SPEECH, MUSIC = Modality.TEXT, Modality.IMAGE, Modality.SPEECH, Modality.MUSIC
FRAMES = {IMAGE: 32, SPEECH: 6, MUSIC: 8}


def medium(kind: Modality, seconds: float = 1.0) -> dict[str, Any]:
    wave = np.sin(np.arange(int(16000 * seconds)) / 20).astype(np.float32) * 0.3
    data = write_png(np.full((8, 8, 3), 90, np.uint8)) if kind is IMAGE else write_wav(wave, 16000)
    mime = "image/png" if kind is IMAGE else "audio/wav"
    extras = {"anyloom": {"modality": kind.value}}
    block = {"type": "image" if kind is IMAGE else "audio", "base64": b64encode(data).decode(), "mime_type": mime}
    return {**block, "extras": extras}


def run(engine: Any, store: Any, *content: Any, **options: Any) -> Any:
    blocks = [{"type": "text", "text": given} if isinstance(given, str) else given for given in content]
    graph = build_graph(engine, store)
    result = graph.invoke({"messages": [HumanMessage(content=blocks)]}, context=Context(**options))
    return store.turn(result["turn"])


@pytest.fixture
def base(engine: Any) -> Any:
    engine.template = "base"
    return engine


@pytest.mark.parametrize("to", [IMAGE, SPEECH, MUSIC])
def test_text_becomes_one_medium(base: Any, store: Any, to: Modality) -> None:
    base.will_say(base.span(to, FRAMES[to]))
    turn = run(base, store, "a dog runs", to=to.value, seed=1)
    prompt = dialogue.format_base(Part(TEXT, text="a dog runs"), to, base.vocabulary)
    assert turn.prompt == (*prompt, *dialogue.lead(base.vocabulary))
    forced = [*prompt, *dialogue.forced(to, base.vocabulary)]
    assert [*turn.prompt, *turn.generation.ids][: len(forced)] == forced
    assert [part.modality for part in turn.reply] == [to]
    assert turn.bounds.modalities == frozenset([to])
    assert recorded(base, store, turn.id).verdict == "identical"


@pytest.mark.parametrize("kind", [IMAGE, SPEECH, MUSIC])
def test_a_medium_becomes_text(base: Any, store: Any, kind: Modality) -> None:
    base.will_say(Part(TEXT, text="hello there friend"))
    turn = run(base, store, medium(kind), seed=1)
    assert turn.prompt == tuple(dialogue.format_base(turn.request[0], TEXT, base.vocabulary))
    assert [part.text for part in turn.reply] == ["hello there friend"]


def test_a_text_beside_a_medium_or_an_option_is_the_instruction(base: Any, store: Any) -> None:
    for content, options in (
        (("what is this", medium(SPEECH)), {}),
        ((medium(SPEECH),), {"instruction": "what is this"}),
    ):
        base.will_say(Part(TEXT, text="hello"))
        turn = run(base, store, *content, **options)
        [part] = [part for part in turn.request if part.modality is SPEECH]
        assert turn.prompt == tuple(dialogue.format_base(part, TEXT, base.vocabulary, "what is this"))
    assert turn.options["instruction"] == "what is this"
    assert recorded(base, store, turn.id).verdict == "identical"
    with pytest.raises(InputError, match="the one or the other"):
        run(base, store, "what is this", medium(SPEECH), instruction="play")


def test_long_music_is_several_spans_of_one_prompt(base: Any, store: Any) -> None:
    base.will_say(Part(TEXT, text="hello"))
    turn = run(base, store, medium(MUSIC, 12.0))
    openings = [token for token in turn.prompt if token == base.vocabulary.range(MUSIC).opening]
    assert len(openings) == len(turn.request) == 3
    assert {len(part.span.ids) for part in turn.request} == {200, 80}


def test_a_base_model_keeps_no_conversation(base: Any, store: Any) -> None:
    base.will_say(base.span(IMAGE, 32))
    first = run(base, store, "draw", to="image", conversation="c")
    base.will_say(base.span(IMAGE, 32))
    second = run(base, store, "draw", to="image", conversation="c")
    assert second.parent == first.id
    assert (second.prompt, second.dropped) == (first.prompt, 1)


def test_what_a_base_model_cannot_do_is_said(base: Any, store: Any) -> None:
    with pytest.raises(InputError, match="does not turn text into text"):
        run(base, store, "hello")
    with pytest.raises(InputError, match="does not turn image into speech"):
        run(base, store, medium(IMAGE), to="speech")
    with pytest.raises(InputError, match="2 media came"):
        run(base, store, medium(IMAGE), medium(SPEECH))
    with pytest.raises(UnknownName, match="MMGPT, AnyGPT, or base"):
        run(base, store, "hello", template="ChatML")


def test_a_template_can_be_asked_for(engine: Any, store: Any) -> None:
    engine.will_say(Part(TEXT, text="hello"))
    turn = run(engine, store, "hello", template="AnyGPT")
    asked = [Message("user", (Part(TEXT, text="hello"),))]
    assert turn.prompt == tuple(dialogue.format(asked, engine.vocabulary, "AnyGPT"))
    engine.will_say(Part(TEXT, text="hello"))
    turn = run(engine, store, medium(IMAGE), template="base")
    assert turn.prompt == tuple(dialogue.format_base(turn.request[0], TEXT, engine.vocabulary))


@pytest.mark.parametrize("to", [IMAGE, SPEECH, MUSIC])
def test_a_chat_reply_can_be_forced_to_one_medium(engine: Any, store: Any, to: Modality) -> None:
    engine.will_say(engine.span(to, FRAMES[to]))
    turn = run(engine, store, "draw", to=to.value, modalities=(to.value,), conversation="c", seed=2)
    asked = [Message("user", (Part(TEXT, text="draw"),))]
    forced = dialogue.format(asked, engine.vocabulary, to=to)
    assert [*turn.prompt, *turn.generation.ids][: len(forced)] == forced
    assert recorded(engine, store, turn.id).verdict == "identical"
    engine.will_say(Part(TEXT, text="hello"))
    after = run(engine, store, "hello", conversation="c")
    assert after.prompt[: len(forced)] == tuple(forced)


def test_a_fork_of_a_forced_turn_may_be_of_another_modality(engine: Any, store: Any) -> None:
    engine.will_say(engine.span(IMAGE, 32))
    turn = run(engine, store, "draw", to="image", modalities=("image",))
    engine.will_say(engine.span(SPEECH, 6))
    made = fork(engine, store, turn.id, to="speech", modalities=("speech",))
    assert [part.modality for part in made.reply] == [SPEECH]
