"""Many turns side by side through the graph's own nodes: for batches, where nobody streams, resumes or looks on.

What the nodes do, what they are given and what is recorded is the graph's (conversation.py). Left out is LangGraph's
bookkeeping for each step of each turn: it takes longer than the nodes, and in that time the language model waits for
the interpreter. One thread brings all turns to their prompts, asks the language model once for all replies, and
records all turns in one transaction. Knows no checkpoint and no conversation that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from langchain_core.messages import BaseMessage
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, Send

from ..anygpt_model.errors import AnyloomError, Busy
from ..anygpt_model.media import Limits
from ..anygpt_model.values import Generation, Request, Turn
from ..nodes.detection import detect
from ..nodes.detokenization import detokenizer
from ..nodes.generation import answered, asked
from ..nodes.ports import Keeper
from ..nodes.recording import make_turn
from ..nodes.routing import route
from ..nodes.state import Context, State, add_timings, by_position
from ..nodes.timing import timed
from ..nodes.tokenization import tokenizer
from .conversation import MEDIA, RETRY, to_detokenize, to_tokenize

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine

Cancelled = Callable[[], bool]
Node = Callable[..., Any]
Given = TypeVar("Given")
Made = TypeVar("Made")
REDUCED: dict[str, Callable[[Any, Any], Any]] = {
    "tokenized": by_position,
    "made": by_position,
    "timings": add_timings,
}
"""Channels that several nodes write, as the graph's state says; the others hold what was written last."""


class Archive(Keeper, Protocol):
    """A store that records many turns at once."""

    def record_all(self, turns: Sequence[Turn]) -> list[Turn]:
        """Record all of `turns`, or none."""
        ...


@dataclass
class Run:
    """A turn on its way. error: what ended it."""

    context: Context
    state: dict[str, Any]
    request: Request | None = None
    dropped: int = 0
    error: Exception | None = None
    turn: Turn | None = None
    runtime: Runtime[Context] = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = Runtime(context=self.context, stream_writer=_unheard)


class SideBySide:
    """Makes turns over one engine and one store; safe for threads."""

    def __init__(self, engine: Engine, keeper: Archive, limits: Limits | None = None) -> None:
        allowed = limits or Limits()
        self._engine = engine
        self._keeper = keeper
        self._detect = timed("detect", tried(partial(detect, keeper=keeper, limits=allowed)))
        self._route = timed("route", partial(route, engine=engine))
        self._media: dict[str, Node] = {}
        for kind in MEDIA:
            for verb, made in (("tokenize", tokenizer), ("detokenize", detokenizer)):
                name = f"{verb}_{kind.value}"
                self._media[name] = timed(name, tried(made(kind, engine, keeper, allowed)))

    def turns(
        self, messages: Sequence[tuple[BaseMessage, Context]], cancelled: Cancelled | None = None
    ) -> list[Turn | Exception | None]:
        """For each message the recorded turn that answers it, or what kept it from being made.

        None stands for a turn that was not finished when `cancelled` became true; nothing is recorded of it.
        """
        runs = [Run(context, {"messages": [message]}) for message, context in messages]
        self._each(runs, self._prepared, cancelled)
        ready = [run for run in runs if run.request is not None]
        started = time.perf_counter()
        replies = in_parts(ready, lambda some: self._generated(some, cancelled))
        spent = (time.perf_counter() - started) / max(len(ready), 1)
        for run, reply in zip(ready, replies, strict=True):
            _write_reply(run, reply, spent)
        answering = [run for run in ready if "generation" in run.state]
        self._each(answering, self._finished, cancelled)
        self._record([run for run in answering if "reply" in run.state and run.turn is not None])
        return [run.error or run.turn for run in runs]

    def _each(self, runs: Sequence[Run], work: Callable[[Run], None], cancelled: Cancelled | None) -> None:
        """`work` for each of `runs`; what one raises is its own end alone."""
        for run in runs:
            if cancelled is not None and cancelled():
                return
            try:
                work(run)
            except Exception as error:
                # Whatever a turn fails of, the caller is told, and the others go on.
                run.error = error

    def _prepared(self, run: Run) -> None:
        _write(run.state, self._detect(run.state, {}, run.runtime))
        self._sent(run, to_tokenize)
        run.request, run.dropped = asked(cast(State, run.state), run.context, self._engine, self._keeper)

    def _generated(self, runs: Sequence[Run], cancelled: Cancelled | None) -> list[Generation]:
        requests = [run.request for run in runs if run.request is not None]
        return self._engine.language_model.generate(requests, None, cancelled)

    def _finished(self, run: Run) -> None:
        _write(run.state, self._route(run.state, {}, run.runtime))
        self._sent(run, to_detokenize)
        run.turn = make_turn(cast(State, run.state), run.context, self._engine)

    def _sent(self, run: Run, edge: Callable[[Any], list[Send] | str]) -> None:
        """Run the nodes that an edge of the graph sends to."""
        for send in edge(run.state):
            if isinstance(send, Send):
                _write(run.state, self._media[send.node](send.arg, {}, run.runtime))

    def _record(self, runs: Sequence[Run]) -> None:
        kept = in_parts(runs, lambda some: self._keeper.record_all([run.turn for run in some if run.turn is not None]))
        for run, turn in zip(runs, kept, strict=True):
            run.turn, run.error = (None, turn) if isinstance(turn, Exception) else (turn, run.error)


def in_parts(given: Sequence[Given], work: Callable[[Sequence[Given]], Sequence[Made]]) -> list[Made | Exception]:
    """`work` of all at once; where one is refused, of each half, so that the others don't fail with it.

    What is nobody's own fault (memory, a full queue, a device) is everybody's end.
    """
    if not given:
        return []
    try:
        return list(work(given))
    except Exception as error:
        if len(given) == 1 or isinstance(error, Busy) or not isinstance(error, AnyloomError):
            return [error] * len(given)
    half = len(given) // 2
    return [*in_parts(given[:half], work), *in_parts(given[half:], work)]


def tried(work: Node) -> Node:
    """`work` under the graph's RETRY."""

    def again(*given: Any) -> Any:
        for attempt in range(1, RETRY.max_attempts):
            try:
                return work(*given)
            except (OSError, TimeoutError):
                time.sleep(RETRY.initial_interval * RETRY.backoff_factor ** (attempt - 1))
        return work(*given)

    return again


def _write_reply(run: Run, reply: Generation | Exception, seconds: float) -> None:
    """seconds: its share of the time in which all were made."""
    if isinstance(reply, Exception):
        run.error = reply
    elif reply.finish != "cancelled" and run.request is not None:
        _write(run.state, {**answered(run.request, run.dropped, reply), "timings": {"generate": seconds}})


def _write(state: dict[str, Any], update: dict[str, Any]) -> None:
    for name, value in update.items():
        if isinstance(value, Overwrite):
            state[name] = value.value
        elif name in REDUCED:
            state[name] = REDUCED[name](state[name], value)
        elif name != "messages":  # they serve whoever goes on with the conversation; no later node reads them
            state[name] = value


def _unheard(event: Any) -> None:
    """Where the events of a run go that nobody streams."""
