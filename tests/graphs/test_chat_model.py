"""ChatAnyGPT over a scripted model: one message out, streamed alike, continued from the store; tools are refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage

from anyloom.anygpt_model.errors import InputError
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.chat_model import ChatAnyGPT
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.isolation import astreamed, streamed
from anyloom.graphs.tool import AnyGPTTool
from anyloom.nodes.messages import turn_id
from anyloom.nodes.state import Context

TEXT = Modality.TEXT


@pytest.fixture
def chat(engine: Any, store: Any) -> ChatAnyGPT:
    return ChatAnyGPT(engine=engine, store=store)


def test_a_reply_carries_its_turn_and_its_counts(chat: ChatAnyGPT, store: Any) -> None:
    reply = chat.invoke("hello")
    assert reply.text == "here it is"
    turn = store.turn(turn_id(reply))
    assert reply.usage_metadata["input_tokens"] == len(turn.prompt)


def test_the_stream_adds_up_to_a_reply_that_continues_the_conversation(
    chat: ChatAnyGPT, engine: Any, store: Any
) -> None:
    engine.will_say(
        Part(TEXT, text="hello"),
        engine.span(Modality.IMAGE, 32),
        Part(TEXT, text="here"),
        engine.span(Modality.MUSIC, 4),
    )
    chunks = list(chat.stream("draw"))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert chunks[-1].chunk_position == "last"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert [b["type"] for b in whole.content_blocks if b["type"] != "text"] == ["image", "audio"]
    chat.invoke([HumanMessage("draw"), whole, HumanMessage("what is this")])
    last = store.turns(limit=1) if hasattr(store, "turns") else None
    ids = store.turn(turn_id(whole)).generation.ids[:-1]
    prompt = engine.language_model.requests[-1].prompt
    assert any(prompt[at : at + len(ids)] == ids for at in range(len(prompt)))
    assert last is None or last[0].parent == turn_id(whole)


async def test_async_stream_and_invoke(chat: ChatAnyGPT) -> None:
    assert (await chat.ainvoke("hello")).text == "here it is"
    assert "".join([chunk.text async for chunk in chat.astream("hello")]) == "here it is"


def test_bound_options_reach_the_model(chat: ChatAnyGPT, engine: Any) -> None:
    engine.will_say(Part(TEXT, text="hello"), engine.span(Modality.SPEECH, 4))
    chat.bind(modalities=["text", "speech"], to="speech", seed=5).invoke("hello")
    request = engine.language_model.requests[-1]
    assert request.bounds.modalities == {TEXT, Modality.SPEECH}
    assert (request.bounds.to, request.seed) == (Modality.SPEECH, 5)


def test_a_stop_string_cuts_the_reply(chat: ChatAnyGPT) -> None:
    assert chat.invoke("hello", stop=["it"]).text == "here "


def test_a_stop_string_cuts_a_reply_of_several_segments(chat: ChatAnyGPT, engine: Any, store: Any) -> None:
    for words, kept in (("here it is", ["image"]), ("hello there", ["image", "text", "image"])):
        engine.will_say(engine.span(Modality.IMAGE, 32), Part(TEXT, text=words), engine.span(Modality.IMAGE, 32))
        blocks = chat.invoke("draw", stop=["it"]).content_blocks
        assert [block["type"] for block in blocks if block.get("text") != "here "] == kept


def test_one_modality_may_be_a_bare_name(engine: Any, store: Any) -> None:
    engine.will_say(Part(TEXT, text="here"))
    assert ChatAnyGPT(engine=engine, store=store, modalities="text").invoke("hello").text == "here"
    assert engine.language_model.requests[-1].bounds.modalities == {TEXT}


def test_tools_and_unknown_options_are_refused(chat: ChatAnyGPT) -> None:
    with pytest.raises(InputError, match="AnyGPTTool"):
        chat.bind_tools([])
    with pytest.raises(InputError, match="presence_penalty"):
        chat.invoke("hello", presence_penalty=1)


def test_a_graph_that_calls_it_sees_one_message(chat: ChatAnyGPT) -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    builder = StateGraph(MessagesState)
    builder.add_node("talk", lambda state: {"messages": [chat.invoke(state["messages"])]})
    builder.add_edge(START, "talk")
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    seen = {
        message.id
        for message, _ in graph.stream({"messages": [HumanMessage("hello")]}, thread, stream_mode="messages")
        if isinstance(message, AIMessage)
    }
    assert len(seen) == 1
    assert set(graph.get_state(thread).values) == {"messages"}


@pytest.fixture
def endless(engine: Any, monkeypatch: Any) -> Any:
    """A language model that goes on until it is told to stop; says when it began and when it stopped."""
    began, stopped = threading.Event(), threading.Event()

    def generate(requests: Any, on_token: Any = None, cancelled: Any = None) -> Any:
        if on_token is not None:
            on_token(0, engine.vocabulary.id("<eos>"))
        began.set()
        while not cancelled():
            threading.Event().wait(0.01)
        stopped.set()
        raise RuntimeError("nobody listens any more")

    monkeypatch.setattr(engine.language_model, "generate", generate)
    return began, stopped


async def test_cancelling_a_call_stops_the_model(chat: ChatAnyGPT, engine: Any, store: Any, endless: Any) -> None:
    began, stopped = endless
    tool = AnyGPTTool(engine=engine, store=store)
    for call in (lambda: chat.ainvoke("hello"), lambda: tool.ainvoke({"text": "hello"})):
        began.clear()
        stopped.clear()
        task = asyncio.create_task(call())
        assert await asyncio.to_thread(began.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(stopped.wait, 20)
    assert store.turns() == []


def test_leaving_a_stream_stops_the_model(engine: Any, store: Any, endless: Any) -> None:
    _, stopped = endless
    steps = streamed(build_graph(engine, store), [HumanMessage("hello")], Context())
    while next(steps) != ("custom", {"event": "token", "modality": "", "count": 1, "text": ""}):
        pass
    steps.close()
    assert stopped.wait(20)
    assert store.turns() == []


async def test_leaving_an_async_stream_stops_the_model(engine: Any, store: Any, endless: Any) -> None:
    _, stopped = endless
    steps = astreamed(build_graph(engine, store), [HumanMessage("hello")], Context())
    while await anext(steps) != ("custom", {"event": "token", "modality": "", "count": 1, "text": ""}):
        pass
    await steps.aclose()
    assert await asyncio.to_thread(stopped.wait, 20)
    assert store.turns() == []
