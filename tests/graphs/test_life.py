"""How the graph lives with others: checkpointers, killed nodes, cancellation, many tasks at once, strict state."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from anyloom.anygpt_model.media import write_png, write_wav
from anyloom.anygpt_model.values import Modality, Part
from anyloom.graphs.conversation import build_graph
from anyloom.graphs.handles import to_block
from anyloom.nodes.messages import turn_id
from anyloom.nodes.state import Context

TEXT = Modality.TEXT


@pytest.fixture(autouse=True)
def _strict(monkeypatch: Any) -> None:
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")


def talk(graph: Any, engine: Any, store: Any, durability: str) -> None:
    """Ten turns, each with two media by handle and one that is made: twenty given in all."""
    thread = {"configurable": {"thread_id": "t"}}
    engine.context_length = engine.language_model.context_length = 2048  # prompts as long as the pocket's
    for number in range(10):
        engine.will_say(Part(TEXT, text="here it is"), engine.span(Modality.SPEECH, 100, start=number))
        picture = to_block(store, write_png(np.full((8, 8, 3), number, np.uint8)))
        sound = to_block(store, write_wav(np.full(16_000 * 8, number / 20, np.float32), 16_000), "speech")
        content = [picture, sound, {"type": "text", "text": "what is this"}]
        graph.invoke({"messages": [HumanMessage(content)]}, thread, durability=durability)


@pytest.mark.parametrize(("durability", "limit"), [("exit", 200_000), ("sync", 1_000_000)])
def test_checkpoints_stay_small(engine: Any, store: Any, tmp_path: Path, durability: str, limit: int) -> None:
    import sqlite3

    from langgraph.checkpoint.sqlite import SqliteSaver

    with sqlite3.connect(tmp_path / "c.db", check_same_thread=False) as connection:
        saver = SqliteSaver(connection)
        talk(build_graph(engine, store, saver), engine, store, durability)
        kept = connection.execute("SELECT sum(length(checkpoint) + length(metadata)) FROM checkpoints").fetchone()[0]
        kept += connection.execute("SELECT coalesce(sum(length(value)), 0) FROM writes").fetchone()[0]
    connection.close()
    print(f"{durability}: {kept:,} bytes")
    assert kept < limit


async def test_the_async_sqlite_saver_works(engine: Any, store: Any, tmp_path: Path) -> None:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.db")) as saver:
        graph = build_graph(engine, store, saver)
        thread: Any = {"configurable": {"thread_id": "t"}}
        await graph.ainvoke({"messages": [HumanMessage("hello")]}, thread)
        result = await graph.ainvoke({"messages": [HumanMessage("what")]}, thread)
    assert len(result["messages"]) == 4


def test_a_run_that_failed_midway_resumes_and_records_once(engine: Any, store: Any, monkeypatch: Any) -> None:
    graph = build_graph(engine, store, InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t"}}
    engine.will_say(Part(TEXT, text="here"), engine.span(Modality.IMAGE, 32))
    codec = engine.codec(Modality.IMAGE)
    decode = codec.decode

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(codec, "decode", broken)
    with pytest.raises(RuntimeError):
        graph.invoke({"messages": [HumanMessage("draw")]}, thread, context=Context(seed=4))
    monkeypatch.setattr(codec, "decode", decode)
    result = graph.invoke(None, thread, context=Context(seed=4))
    turn = store.turn(result["turn"])
    assert turn.generation.seed == 4
    assert [part.modality for part in turn.reply] == [TEXT, Modality.IMAGE]
    assert len(engine.language_model.requests) == 1
    assert len(store.turns()) == 1


def test_a_disk_that_fails_for_a_moment_is_tried_again(engine: Any, store: Any, monkeypatch: Any) -> None:
    engine.will_say(engine.span(Modality.IMAGE, 32))
    put, failures = store.put, iter([True, False])

    def shaky(*args: Any) -> Any:
        if next(failures, False):
            raise OSError("stale handle")
        return put(*args)

    monkeypatch.setattr(store, "put", shaky)
    result = build_graph(engine, store).invoke({"messages": [HumanMessage("draw")]})
    assert store.turn(result["turn"]).reply[0].media


async def test_cancelling_a_task_stops_the_model(engine: Any, store: Any, monkeypatch: Any) -> None:
    started, stopped = threading.Event(), threading.Event()

    def endless(requests: Any, on_token: Any = None, cancelled: Any = None) -> Any:
        started.set()
        while not cancelled():
            threading.Event().wait(0.01)
        stopped.set()
        raise AssertionError("nobody listens any more")

    monkeypatch.setattr(engine.language_model, "generate", endless)
    task = asyncio.create_task(build_graph(engine, store).ainvoke({"messages": [HumanMessage("hello")]}))
    assert await asyncio.to_thread(started.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(stopped.wait, 20)
    assert store.turns() == []


@pytest.mark.slow
async def test_many_tasks_over_one_engine_do_not_mix(tiny_engine: Any, store: Any) -> None:
    graph = build_graph(tiny_engine, store)

    async def one(seed: int) -> Any:
        context = Context(seed=seed % 8, modalities=("text",), max_tokens=12)
        result = await graph.ainvoke({"messages": [HumanMessage(f"hello {seed % 8}")]}, context=context)
        return store.turn(turn_id(result["messages"][-1]))

    turns = await asyncio.gather(*(one(seed) for seed in range(32)))
    for seed, turn in enumerate(turns):
        assert turn.request[0].text == f"hello {seed % 8}"
        assert turn.generation.ids == turns[seed % 8].generation.ids
    assert len({turn.generation.ids for turn in turns}) > 4


def test_as_a_subgraph_it_shares_the_messages_alone(engine: Any, store: Any) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    builder = StateGraph(MessagesState)
    builder.add_node("anyloom", build_graph(engine, store))
    builder.add_edge(START, "anyloom")
    result = builder.compile(checkpointer=InMemorySaver()).invoke(
        {"messages": [HumanMessage("hello")]}, {"configurable": {"thread_id": "t"}}
    )
    assert set(result) == {"messages"}
    assert result["messages"][-1].content == "here it is"


async def test_every_stream_mode_and_batch(engine: Any, store: Any) -> None:
    graph = build_graph(engine, store, InMemorySaver())
    request: Any = {"messages": [HumanMessage("hello")]}
    modes: Any = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]
    threads: Any = iter([{"configurable": {"thread_id": str(number)}} for number in range(20)])
    for mode in modes:
        assert list(graph.stream(request, next(threads), stream_mode=mode))
        assert [step async for step in graph.astream(request, next(threads), stream_mode=mode)]
    assert {mode for mode, _ in graph.stream(request, next(threads), stream_mode=modes)} == set(modes)
    [(reply, _)] = list(graph.stream(request, next(threads), stream_mode="messages"))
    assert reply.text == "here it is"
    alone = build_graph(engine, store)
    assert [len(one["messages"]) for one in alone.batch([request, request])] == [2, 2]
    assert [len(one["messages"]) for one in await alone.abatch([request, request])] == [2, 2]
    events = [event async for event in alone.astream_events(request, version="v2")]
    assert {"detect", "generate", "route", "record"} <= {event["name"] for event in events}


async def test_tracers_see_references_and_never_media(engine: Any, store: Any) -> None:
    data = write_png(np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8))
    engine.will_say(Part(TEXT, text="here"), engine.span(Modality.IMAGE, 32))
    request: Any = {"messages": [HumanMessage([to_block(store, data), {"type": "text", "text": "what"}])]}
    seen = "".join([repr(event) async for event in build_graph(engine, store).astream_events(request, version="v2")])
    assert "sha256:" in seen
    for medium in (data, store.get(store.turn(store.turns()[0].id).reply[1].media.hash)):
        assert b64encode(medium).decode()[40:80] not in seen
        assert repr(medium[40:60])[2:-1] not in seen


async def test_bytes_given_in_a_message_end_with_the_first_node(engine: Any, store: Any) -> None:
    data = b64encode(write_png(np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8))).decode()
    request: Any = {"messages": [HumanMessage([{"type": "image", "base64": data, "mime_type": "image/png"}])]}
    holders = {
        event["name"]
        async for event in build_graph(engine, store).astream_events(request, version="v2")
        if data[40:80] in repr(event)
    }
    assert holders <= {"anyloom", "detect"}
