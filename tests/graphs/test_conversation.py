"""The graph over a scripted model: what comes in, what is made, what is recorded, what a conversation remembers."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver

from anyloom.anygpt_model.errors import ContextFull, InputError, MediaError, UnknownName
from anyloom.anygpt_model.media import read_image, write_png, write_wav
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.conversation import build_graph
from anyloom.nodes.messages import turn_id
from anyloom.nodes.state import Context

TEXT = Modality.TEXT


def picture(shade: int = 90) -> bytes:
    return write_png(np.full((8, 8, 3), shade, np.uint8))


def sound(seconds: float = 1.0) -> bytes:
    return write_wav(np.sin(np.arange(int(16000 * seconds)) / 20).astype(np.float32) * 0.3, 16000)


def block(data: bytes, kind: str, modality: str | None = None) -> dict[str, Any]:
    made = {
        "type": kind,
        "base64": b64encode(data).decode(),
        "mime_type": "image/png" if kind == "image" else "audio/wav",
    }
    return made if modality is None else {**made, "extras": {"anyloom": {"modality": modality}}}


def ask(*content: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage(content=list(content))]}


def test_a_text_turn_is_answered_and_recorded(engine: Any, store: Any) -> None:
    engine.will_say(Part(TEXT, text="hello there friend"))
    result = build_graph(engine, store).invoke(ask("hello"), context=Context(seed=7))
    reply = result["messages"][-1]
    assert isinstance(reply, AIMessage)
    assert reply.content == "hello there friend"
    turn = store.turn(result["turn"])
    assert turn_id(reply) == turn.id
    assert turn.generation.seed == 7
    assert turn.prompt == engine.language_model.requests[0].prompt
    assert [part.text for part in turn.request] == ["hello"]
    assert set(turn.timings) >= {"detect", "generate", "route"}
    assert reply.usage_metadata["output_tokens"] == len(turn.generation.ids)


def test_media_in_and_several_media_out_in_their_order(engine: Any, store: Any) -> None:
    engine.will_say(
        Part(TEXT, text="here it is"),
        engine.span(Modality.IMAGE, 32),
        engine.span(Modality.MUSIC, 8),
        engine.span(Modality.IMAGE, 32, start=5),
    )
    content = [{"type": "text", "text": "draw"}, block(picture(), "image"), block(sound(), "audio", "speech")]
    result = build_graph(engine, store).invoke(ask(*content), context=Context(seed=1))
    turn = store.turn(result["turn"])
    assert [part.modality for part in turn.reply] == [TEXT, Modality.IMAGE, Modality.MUSIC, Modality.IMAGE]
    made = [part.media for part in turn.reply if part.media]
    assert read_image(store.get(made[0].hash)).shape == (4, 8, 3)
    assert made[0].hash != made[2].hash
    assert [part.modality for part in turn.request] == [TEXT, Modality.IMAGE, Modality.SPEECH]
    assert len(turn.request[1].span.ids) == 32
    blocks = result["messages"][-1].content_blocks
    assert [b["type"] for b in blocks] == ["text", "image", "audio", "image"]
    assert blocks[2]["extras"]["anyloom"]["modality"] == "music"
    assert all("base64" not in b for message in result["messages"] for b in message.content_blocks)


def test_bytes_become_references_in_place(engine: Any, store: Any) -> None:
    message = HumanMessage(content=[block(picture(), "image")], id="mine")
    result = build_graph(engine, store).invoke({"messages": [message]})
    assert result["messages"][0].id == "mine"
    assert len(result["messages"]) == 2
    assert result["messages"][0].content_blocks[0]["file_id"].startswith("sha256:")


def test_history_comes_from_the_store_as_raw_ids(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    engine.will_say(Part(TEXT, text="here it is"), engine.span(Modality.IMAGE, 32))
    first = graph.invoke(ask("draw a red apple"))
    engine.will_say(Part(TEXT, text="what"))
    second = graph.invoke({"messages": [*first["messages"], HumanMessage("what is this")]})
    ids = store.turn(first["turn"]).generation.ids[:-1]
    prompt = engine.language_model.requests[-1].prompt
    assert any(prompt[at : at + len(ids)] == ids for at in range(len(prompt)))
    turn = store.turn(second["turn"])
    assert turn.parent == first["turn"]
    assert turn.conversation == store.turn(first["turn"]).conversation
    assert "foreign" not in turn.options


def test_an_edited_reply_is_encoded_afresh_and_marked(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    first = graph.invoke(ask("hello"))["messages"]
    edited = first[1].model_copy(update={"content": "never said so"})
    result = graph.invoke({"messages": [first[0], edited, HumanMessage("what")]})
    assert store.turn(result["turn"]).options["foreign"] == 1
    assert store.turn(result["turn"]).parent is None


def test_a_thread_remembers_through_a_checkpointer(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store, InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t1"}}
    first = graph.invoke(ask("hello"), thread)
    second = graph.invoke(ask("what is this"), thread)
    assert len(second["messages"]) == 4
    turn = store.turn(second["turn"])
    assert (turn.parent, turn.conversation) == (first["turn"], "t1")


def test_a_stored_conversation_goes_on_by_its_id(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    first = graph.invoke(ask("hello"), context=Context(conversation="c"))
    second = graph.invoke(ask("what"), context=Context(conversation="c"))
    assert store.turn(second["turn"]).parent == first["turn"]
    assert len(engine.language_model.requests[1].prompt) > len(engine.language_model.requests[0].prompt)


def test_a_medium_is_tokenized_once_in_its_life(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    for _ in range(3):
        graph.invoke(ask(block(picture(), "image")))
    assert engine.codec(Modality.IMAGE).encoded == 1


def test_a_long_sound_becomes_several_spans(engine: Any, store: Any) -> None:
    result = build_graph(engine, store).invoke(ask(block(sound(7.0), "audio", "music")))
    spans = [part.span for part in store.turn(result["turn"]).request]
    assert [len(span.ids) for span in spans] == [200, 80]
    assert len(result["messages"][0].content_blocks) == 1


def test_old_turns_are_left_out_when_the_context_is_full(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    messages: list[Any] = []
    for _ in range(3):
        messages = graph.invoke({"messages": [*messages, HumanMessage("hello " * 150)]})["messages"]
    turn = store.turn(turn_id(messages[-1]))
    assert turn.dropped > 0
    assert len(turn.prompt) < engine.context_length
    with pytest.raises(ContextFull, match="shorter"):
        graph.invoke(ask("hello " * 2000))


def test_the_stream_carries_tokens_segments_and_progress(engine: Any, store: Any) -> None:
    engine.will_say(Part(TEXT, text="hello there friend"), engine.span(Modality.IMAGE, 32))
    events = list(build_graph(engine, store).stream(ask("draw"), stream_mode="custom"))
    text = "".join(e["text"] for e in events if e["event"] == "token" and e["modality"] == "text")
    assert text == "hello there friend"
    assert [e["modality"] for e in events if e["event"] == "segment"] == ["text", "image"]
    assert any(e["event"] == "progress" and e["node"] == "detokenize_image" for e in events)
    assert events[-1]["event"] == "turn"


def test_a_transcript_is_no_content_but_kept(engine: Any, store: Any) -> None:
    engine.will_say(
        Part(TEXT, text="what is this", kind="transcript"), Part(TEXT, text="here"), engine.span(Modality.SPEECH, 5)
    )
    result = build_graph(engine, store).invoke(ask(block(sound(), "audio", "speech")), context=Context(to="speech"))
    reply = result["messages"][-1]
    assert reply.text == "here"
    assert reply.response_metadata["anyloom"]["transcript"] == "what is this"


async def test_async_answers_alike(engine: Any, store: Any) -> None:
    engine.will_say(Part(TEXT, text="hello there friend"))
    result = await build_graph(engine, store).ainvoke(ask("hello"), context=Context(seed=7))
    assert result["messages"][-1].content == "hello there friend"


def test_a_run_records_once(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    turns = {graph.invoke(ask("hello"), context=Context(run="job-1"))["turn"] for _ in range(2)}
    assert len(turns) == 1


def test_the_system_message_is_part_of_the_request(engine: Any, store: Any) -> None:
    messages = [SystemMessage("be kind"), HumanMessage("hello")]
    turn = store.turn(build_graph(engine, store).invoke({"messages": messages})["turn"])
    assert [part.text for part in turn.request] == ["be kind", "hello"]


def test_equal_seeds_decode_alike(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store)
    hashes = []
    for seed in (3, 3, 4):
        engine.will_say(engine.span(Modality.IMAGE, 32))
        turn = store.turn(graph.invoke(ask("draw"), context=Context(seed=seed))["turn"])
        hashes.append(turn.reply[0].media.hash)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("content", "context", "error", "says"),
    [
        ([], {}, InputError, "empty"),
        (["  "], {}, InputError, "empty"),
        ([{"type": "image", "url": "http://127.0.0.1/x.png"}], {}, InputError, "URL"),
        ([{"type": "image", "base64": "%%%"}], {}, MediaError, "base64"),
        ([{"type": "image", "file_id": "/etc/passwd"}], {}, UnknownName, "passwd"),
        ([{"type": "video", "base64": "AAAA", "mime_type": "video/mp4"}], {}, InputError, "video"),
        (["hello"], {"to": "smell"}, UnknownName, "smell"),
        (["hello"], {"temperature": -1.0}, InputError, "temperature"),
        (["hello"], {"max_tokens": 0}, InputError, "max_tokens 0 came"),
        (["hello"], {"max_seconds": float("nan")}, InputError, "max_seconds nan came"),
    ],
)
def test_unusable_requests_are_one_sentence(
    engine: Any, store: Any, content: list[Any], context: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        build_graph(engine, store).invoke(ask(*content), context=Context(**context))
    assert "\n" not in str(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_text_cannot_forge_ids_of_media(engine: Any, store: Any, data: Any) -> None:
    vocabulary = engine.vocabulary
    forgeries = [vocabulary.string(token) for token in range(vocabulary.text_size, vocabulary.size)]
    piece = st.one_of(st.sampled_from(forgeries), st.sampled_from(forgeries).map(lambda one: one[1:-1]), st.text())
    drawn = "".join(data.draw(st.lists(piece, min_size=1, max_size=30)))
    engine.context_length = engine.language_model.context_length = 65_536
    graph = build_graph(engine, store)
    for text in ("hello", "".join(forgeries) + drawn, "a" + drawn):
        graph.invoke(ask(text))
    harmless, *attacked = (
        [token for token in request.prompt if token >= vocabulary.text_size]
        for request in engine.language_model.requests[-3:]
    )
    assert attacked == [harmless, harmless]
