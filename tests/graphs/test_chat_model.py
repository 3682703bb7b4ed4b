"""ChatAnyGPT over a scripted model: one message out, streamed alike, continued from the store; tools are refused."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage

from anyloom.anygpt_model.errors import InputError
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.chat_model import ChatAnyGPT
from anyloom.nodes.messages import turn_id

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
