"""build_graph: the stages of AnyGPT as a LangGraph graph over one engine and one store.

    detect -> tokenize_<modality> … (side by side) -> generate -> route -> detokenize_<modality> … -> record

Live objects are closed over; the state holds strings, numbers and references. Knows no network and no SQL.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer, RetryPolicy, Send
from typing_extensions import TypedDict

from ..anygpt_model.media import Limits
from ..anygpt_model.values import Modality
from ..nodes.detection import detect
from ..nodes.detokenization import detokenizer
from ..nodes.generation import generate
from ..nodes.ports import Fetch, Keeper
from ..nodes.recording import record
from ..nodes.routing import route
from ..nodes.state import Context, Conversation, PartState, State
from ..nodes.timing import Cancellable, resumable, timed
from ..nodes.tokenization import tokenizer
from .urls import Urls

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine

MEDIA = tuple(kind for kind in Modality if kind is not Modality.TEXT)
RETRY = RetryPolicy(max_attempts=3, initial_interval=0.2, retry_on=(OSError, TimeoutError))
"""For the nodes that read or write media: a disk or a network drive may fail for a moment. What the model computes is
deterministic and is not tried again; a user's mistake never is."""

Graph = CompiledStateGraph[State, Context, Conversation, State]


def build_graph(
    engine: Engine,
    store: Keeper | None = None,
    checkpointer: Checkpointer = None,
    *,
    limits: Limits | None = None,
    urls: bool | Fetch = False,
) -> Graph:
    """A compiled graph: messages in, messages out (LangGraph's MessagesState), options by `context=Context(...)`.

    store: where media and turns are kept; None keeps them in memory. checkpointer: LangGraph's own, if the caller wants
    threads. limits: of the media taken. urls: whether content blocks may name their media by URL, or a `Urls` that says
    which; off, they are refused. One graph serves many threads and tasks at once.
    """
    keeper = store if store is not None else memory_store()
    allowed = limits or Limits()
    builder = StateGraph(State, context_schema=Context, input_schema=Conversation, output_schema=State)
    _add_nodes(builder, engine, keeper, allowed, Urls() if urls is True else urls or None)
    builder.add_edge(START, "detect")
    builder.add_conditional_edges("detect", to_tokenize, [*map(_tokenizes, MEDIA), "generate"])
    builder.add_edge("generate", "route")
    builder.add_conditional_edges("route", to_detokenize, [*map(_detokenizes, MEDIA), "record"])
    for kind in MEDIA:
        builder.add_edge(_tokenizes(kind), "generate")
        builder.add_edge(_detokenizes(kind), "record")
    builder.add_edge("record", END)
    return builder.compile(checkpointer=checkpointer, name="anyloom")


def _add_nodes(builder: Any, engine: Engine, keeper: Keeper, limits: Limits, fetch: Fetch | None) -> None:
    def add(name: str, node: Any, **how: Any) -> None:
        builder.add_node(name, timed(name, node), **how)

    add("detect", partial(detect, keeper=keeper, limits=limits, fetch=fetch), retry_policy=RETRY)
    for kind in MEDIA:
        reading, making = (made(kind, engine, keeper, limits) for made in (tokenizer, detokenizer))
        add(_tokenizes(kind), reading, retry_policy=RETRY, input_schema=PartState)
        add(_detokenizes(kind), resumable(making), retry_policy=RETRY, input_schema=PartState)
    builder.add_node("generate", Cancellable("generate", resumable(partial(generate, engine=engine, keeper=keeper))))
    add("route", partial(route, engine=engine))
    add("record", resumable(partial(record, engine=engine, keeper=keeper)), retry_policy=RETRY)


class Asked(TypedDict):
    """What `to_tokenize` looks at: LangGraph reads no other channel for it."""

    parts: list[PartState]


class Answered(TypedDict):
    """What `to_detokenize` looks at."""

    reply: list[PartState]
    options: dict[str, Any]


def to_tokenize(state: Asked) -> list[Send] | str:
    """One Send for each medium that is to be read, or straight on."""
    return [Send(_tokenizes(part["modality"]), part) for part in state["parts"] if "media" in part] or "generate"


def to_detokenize(state: Answered) -> list[Send] | str:
    """One Send for each medium that is to be made, or straight on."""
    media = [part for part in state["reply"] if part["modality"] != Modality.TEXT]
    options = state["options"]
    return [Send(_detokenizes(part["modality"]), {**part, "options": options}) for part in media] or "record"


def memory_store() -> Keeper:
    """A store that lives as long as the process."""
    from ..storage.store import open_store

    return open_store("sqlite://")


def _tokenizes(modality: str) -> str:
    return f"tokenize_{Modality(modality).value}"


def _detokenizes(modality: str) -> str:
    return f"detokenize_{Modality(modality).value}"
