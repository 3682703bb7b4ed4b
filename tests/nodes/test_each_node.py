"""Each node alone: what it reads from the state, what it asks of its ports, what it writes back."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Overwrite

from anyloom.anygpt_model.errors import ContextFull, InputError, MediaError, StoreError, UnknownName
from anyloom.anygpt_model.grammar import render
from anyloom.anygpt_model.media import Limits, probe, read_audio, read_image, write_png, write_wav
from anyloom.anygpt_model.values import Generation, Modality, Part
from anyloom.nodes.detection import detect
from anyloom.nodes.detokenization import decoder_seed, detokenizer
from anyloom.nodes.generation import generate
from anyloom.nodes.packing import pack, pack_ids, unpack, unpack_ids
from anyloom.nodes.recording import record
from anyloom.nodes.routing import route
from anyloom.nodes.tokenization import made_by, tokenizer

LIMITS = Limits()
PNG = write_png(np.full((8, 8, 3), 90, np.uint8))
WAV = write_wav(np.sin(np.arange(16000) / 20).astype(np.float32) * 0.3, 16000)
EMPTY: dict[str, Any] = {
    "run": "run-1", "conversation": "c", "seed": 7, "history": [], "parts": [], "tokenized": [], "made": [],
    "prompt": "", "dropped": 0, "reply": [], "timings": {}, "turn": "",
}  # fmt: skip


def block(data: bytes, kind: str, said: str | None = None) -> dict[str, Any]:
    made = {"type": kind, "base64": b64encode(data).decode(), "mime_type": "application/octet-stream"}
    return {**made, "extras": {"anyloom": {"modality": said}}} if said else made


def asked(*content: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage(content=list(content), id="1")]}


def text_part(text: str) -> dict[str, Any]:
    return {"position": 0, "exchange": 0, "role": "user", "modality": "text", "text": text}


def kept_part(keeper: Any, data: bytes, modality: str) -> dict[str, Any]:
    media = keeper.put(data, probe(data))
    return {"position": 0, "exchange": 0, "role": "user", "modality": modality, "media": {"hash": media.hash}}


def segment(engine: Any, kind: Modality, frames: int, position: int = 0) -> dict[str, Any]:
    ids = list(engine.span(kind, frames).span.ids)
    return {"position": position, "exchange": 0, "role": "assistant", "modality": kind.value, "ids": ids, "seed": 5}


def made_of(engine: Any, *parts: Part) -> Any:
    """A generation that says `parts`, as it travels."""
    ids = (*render(parts, engine.vocabulary), engine.vocabulary.id("<eos>"))
    return pack(Generation(ids, tuple(-0.5 for _ in ids), tuple(1.0 for _ in ids), "end", 7))


def test_detect_names_keeps_and_refers(keeper: Any, runtime: Any) -> None:
    state = asked({"type": "text", "text": "what"}, block(PNG, "image"), block(WAV, "audio", "music"))
    update = detect(state, {}, runtime(seed=7), keeper=keeper, limits=LIMITS)
    assert [part["modality"] for part in update["parts"]] == ["text", "image", "music"]
    assert sorted(keeper.bytes.values()) == sorted([PNG, WAV])
    [message] = update["messages"]
    assert message.id == "1"
    assert "base64" not in str(message.content)
    assert update["seed"] == 7
    assert all(isinstance(update[name], Overwrite) for name in ("tokenized", "made", "timings"))


def test_detect_draws_a_seed_and_takes_the_thread_for_a_conversation(keeper: Any, runtime: Any) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    updates = [detect(asked("hello"), config, runtime(), keeper=keeper, limits=LIMITS) for _ in range(2)]
    assert updates[0]["seed"] != updates[1]["seed"]
    assert updates[0]["conversation"] == "t"


def test_detect_refuses_before_it_keeps(keeper: Any, runtime: Any) -> None:
    for content, options, error in (
        ([block(PNG, "image")], {"voice": "nobody"}, UnknownName),
        ([block(PNG, "image")], {"to": "smell"}, UnknownName),
        ([block(PNG, "image")], {"modalities": (["text"],)}, UnknownName),
        ([block(b"nothing", "image")], {}, MediaError),
        ([block(PNG, "image", "music")], {}, MediaError),
        ([block(PNG, "image", "smell")], {}, UnknownName),
        (["hello"] * 33, {}, InputError),
        (["hello"], {"run": 5}, InputError),
        ([{**block(PNG, "image"), "extras": {"anyloom": "image"}}], {}, InputError),
        ([], {}, InputError),
    ):
        with pytest.raises(error):
            detect(asked(*content), {}, runtime(**options), keeper=keeper, limits=LIMITS)
    assert keeper.bytes == {}


def test_detect_refuses_a_voice_that_is_none(keeper: Any, runtime: Any) -> None:
    short = write_wav(np.zeros(80, np.float32), 16000)
    for data, says in ((PNG, "image/png came as the voice"), (short, "A recording of 0.01 s came")):
        voice = keeper.put(data, probe(data)).hash
        with pytest.raises(MediaError, match=says):
            detect(asked("hello"), {}, runtime(voice=voice), keeper=keeper, limits=LIMITS)


def test_detect_leaves_other_readers_extras_alone(keeper: Any, runtime: Any) -> None:
    for extras in ("high", {"detail": "high"}, None):
        update = detect(asked({**block(PNG, "image"), "extras": extras}), {}, runtime(), keeper=keeper, limits=LIMITS)
        assert [part["modality"] for part in update["parts"]] == ["image"]


def test_detect_fetches_only_where_it_may(keeper: Any, runtime: Any) -> None:
    wanted = []

    def fetch(url: str, max_bytes: int) -> bytes:
        wanted.append((url, max_bytes))
        return PNG

    state = asked({"type": "image", "url": "https://example.org/a.png"})
    with pytest.raises(InputError, match="URL"):
        detect(state, {}, runtime(), keeper=keeper, limits=LIMITS)
    update = detect(state, {}, runtime(), keeper=keeper, limits=LIMITS, fetch=fetch)
    assert wanted == [("https://example.org/a.png", LIMITS.max_bytes)]
    assert update["parts"][0]["media"]["hash"] in keeper.bytes
    assert "url" not in update["messages"][0].content[0]


@pytest.mark.parametrize("kind", ["image", "speech", "music"])
def test_tokenize_once(engine: Any, keeper: Any, runtime: Any, kind: str) -> None:
    modality, calls, data = Modality(kind), runtime(), PNG if kind == "image" else WAV
    node = tokenizer(modality, engine, keeper, LIMITS)
    part = kept_part(keeper, data, kind)
    first = node(part, {}, calls)
    assert node(part, {}, runtime()) == first
    assert engine.codec(modality).encoded == 1
    low, high = min(first["tokenized"][0]["spans"][0]), max(first["tokenized"][0]["spans"][0])
    assert engine.vocabulary.modality(low) is engine.vocabulary.modality(high) is modality
    assert calls.events[0]["node"] == f"tokenize_{kind}"


def test_tokenize_takes_a_generated_mediums_own_codes(engine: Any, keeper: Any, runtime: Any) -> None:
    part = kept_part(keeper, PNG, "image")
    own = np.full((1, 32), 3)
    keeper.keep_codes(part["media"]["hash"], made_by(engine.fingerprints["image"]), own)
    [placed] = tokenizer(Modality.IMAGE, engine, keeper, LIMITS)(part, {}, runtime())["tokenized"]
    assert placed["spans"] == [list(engine.vocabulary.to_span(Modality.IMAGE, own).ids)]
    assert engine.codec(Modality.IMAGE).encoded == 0


def test_tokenize_says_what_is_missing(engine: Any, keeper: Any, runtime: Any) -> None:
    part = {**text_part(""), "media": {"hash": "sha256:gone"}}
    with pytest.raises(StoreError, match="gone"):
        tokenizer(Modality.IMAGE, engine, keeper, LIMITS)(part, {}, runtime())


def test_generate_writes_ids_scores_and_tokens(engine: Any, keeper: Any, runtime: Any) -> None:
    engine.will_say(Part(Modality.TEXT, text="here it is"))
    calls = runtime(max_tokens=50)
    state = {**EMPTY, "parts": [text_part("what is this")]}
    update = generate(state, {}, calls, engine=engine, keeper=keeper)
    [request] = engine.language_model.requests
    assert request.prompt == unpack_ids(update["prompt"])
    assert (request.seed, request.bounds.max_tokens) == (7, 50)
    assert "".join(event["text"] for event in calls.events) == "here it is"
    assert unpack(update["generation"], 7).finish == "end"
    assert update["dropped"] == 0


def test_generate_refuses_what_does_not_fit_or_was_not_opened(engine: Any, keeper: Any, runtime: Any) -> None:
    engine.context_length = 64
    with pytest.raises(ContextFull, match="shorter"):
        generate({**EMPTY, "parts": [text_part("hello " * 90)]}, {}, runtime(), engine=engine, keeper=keeper)
    engine.modalities = frozenset({Modality.TEXT})
    with pytest.raises(UnknownName, match="without image"):
        generate({**EMPTY, "parts": [text_part("draw")]}, {}, runtime(to="image"), engine=engine, keeper=keeper)


def test_generate_names_a_modality_that_was_not_opened(engine: Any, keeper: Any, runtime: Any) -> None:
    engine.modalities = frozenset({Modality.TEXT, Modality.SPEECH})
    state = {**EMPTY, "parts": [text_part("hello")]}
    with pytest.raises(UnknownName, match="opened without image, music; ask for one of speech, text"):
        generate(state, {}, runtime(modalities=["image", "music"]), engine=engine, keeper=keeper)


def test_route_keeps_the_order_and_gives_each_medium_a_seed(engine: Any, runtime: Any) -> None:
    said = (engine.span(Modality.IMAGE, 32), Part(Modality.TEXT, text="here"), engine.span(Modality.MUSIC, 4),
            engine.span(Modality.IMAGE, 32, start=2))  # fmt: skip
    calls = runtime()
    reply = route({**EMPTY, "generation": made_of(engine, *said)}, {}, calls, engine=engine)["reply"]
    assert [part["modality"] for part in reply] == ["image", "text", "music", "image"]
    assert [part["position"] for part in reply] == [0, 1, 2, 3]
    assert [part.get("seed") for part in reply] == [decoder_seed(7, 0), None, decoder_seed(7, 2), decoder_seed(7, 3)]
    assert [event["text"] for event in calls.events] == ["here"]


@pytest.mark.parametrize(("kind", "frames"), [("image", 32), ("speech", 9), ("music", 5)])
def test_detokenize_keeps_the_medium_with_its_codes(
    engine: Any, keeper: Any, runtime: Any, kind: str, frames: int
) -> None:
    modality, calls = Modality(kind), runtime()
    part = segment(engine, modality, frames, position=2)
    node = detokenizer(modality, engine, keeper, LIMITS)
    [made] = node(part, {}, calls)["made"]
    data = keeper.get(made["media"]["hash"])
    assert read_image(data).size if kind == "image" else read_audio(data)[1] == 16_000
    codes = keeper.codes(made["media"]["hash"], made_by(engine.fingerprints[kind]))
    assert engine.vocabulary.to_span(modality, codes).ids == tuple(part["ids"])
    assert (made["position"], calls.events[-1]["event"]) == (2, "segment")
    assert node(part, {}, runtime())["made"] == [made]


def test_detokenize_speaks_with_the_voice_asked_for(engine: Any, keeper: Any, runtime: Any) -> None:
    node = detokenizer(Modality.SPEECH, engine, keeper, LIMITS)
    part = segment(engine, Modality.SPEECH, 9)
    keeper.voices["ann"] = keeper.put(WAV, probe(WAV))
    plain, named, given = (
        node(part, {}, runtime(voice=voice))["made"][0]["media"]["hash"]
        for voice in (None, "ann", keeper.voices["ann"].hash)
    )
    assert plain != named == given


def test_record_writes_one_turn_a_run_and_empties_the_state(engine: Any, keeper: Any, runtime: Any) -> None:
    said = (Part(Modality.TEXT, text="here"), engine.span(Modality.IMAGE, 32))
    state = {**EMPTY, "parts": [text_part("draw")], "generation": made_of(engine, *said), "prompt": pack_ids([1, 2])}
    state["reply"] = route(state, {}, runtime(), engine=engine)["reply"]
    picture = state["reply"][1]
    state["made"] = detokenizer(Modality.IMAGE, engine, keeper, LIMITS)(picture, {}, runtime())["made"]
    state["timings"] = {"generate": 0.5}
    calls = runtime()
    updates = [record(state, {}, calls, engine=engine, keeper=keeper) for _ in range(2)]
    [turn] = keeper.kept.values()
    assert [update["turn"] for update in updates] == [turn.id, turn.id]
    assert turn.prompt == (1, 2)
    assert turn.timings == {"generate": 0.5}
    assert turn.reply[1].media.hash in keeper.bytes
    reply = updates[0]["messages"][0]
    assert isinstance(reply, AIMessage)
    assert reply.response_metadata["anyloom"]["turn"] == turn.id
    assert updates[0]["parts"] == updates[0]["reply"] == []
    assert updates[0]["prompt"] == ""
    assert calls.events[-1] == {"event": "turn", "turn": turn.id, "conversation": "c"}


def test_the_same_codes_are_decoded_once_while_their_medium_is_kept(engine: Any, keeper: Any, runtime: Any) -> None:
    node = detokenizer(Modality.SPEECH, engine, keeper, LIMITS)
    part, codec = segment(engine, Modality.SPEECH, 9), engine.codec(Modality.SPEECH)
    keeper.voices["ann"] = keeper.put(WAV, probe(WAV))
    [made] = node(part, {}, runtime())["made"]
    assert node(part, {}, runtime())["made"] == [made]
    assert codec.decoded == 1
    node(part, {}, runtime(voice="ann"))
    node({**part, "seed": part["seed"] + 1}, {}, runtime())
    engine.versions = {**engine.versions, "torch": "another"}
    node(part, {}, runtime())
    engine.fingerprints["speech"] = "sha256:another"
    node(part, {}, runtime())
    assert codec.decoded == 5
    del keeper.bytes[made["media"]["hash"]]
    assert node(part, {}, runtime())["made"] == [made]
    assert codec.decoded == 6
    assert keeper.get(made["media"]["hash"])
