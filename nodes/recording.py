"""record: everything of the run becomes one stored turn, and the reply a message that carries the turn's id.

A run records once: the turn's id is a function of the run's, so a resumed run returns the turn that it already wrote.
Knows no SQL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from ..anygpt_model.values import Part, Turn
from .generation import bounds_here, request_parts
from .messages import reply_message
from .options import sampling
from .packing import unpack, unpack_ids
from .ports import Keeper
from .state import Context, Event, PartState, State, part_value

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine

RUNS = UUID("9d1f3f6e-6c0b-5d0e-9a55-0b7c5a7a7a3e")
"""Namespace of turn ids derived from run ids."""


def record(state: State, config: RunnableConfig, runtime: Runtime[Context], *, engine: Engine, keeper: Keeper) -> Any:
    """Write the turn, answer with its message, and empty the channels that only this run needed."""
    turn = keeper.record(make_turn(state, runtime.context or Context(), engine))
    runtime.stream_writer(Event(event="turn", turn=turn.id, conversation=turn.conversation))
    return {
        "messages": [reply_message(turn)],
        "turn": turn.id,
        "parts": [],
        "prompt": "",
        "reply": [],
        "generation": {"ids": [], "scores": "", "finish": turn.generation.finish},
        "tokenized": Overwrite([]),
        "made": Overwrite([]),
    }


def make_turn(state: State, options: Context, engine: Engine) -> Turn:
    """The turn of a finished run."""
    return Turn(
        id=uuid5(RUNS, state["run"]).hex,
        conversation=state["conversation"],
        parent=next(iter(state["history"][-1:]), "") or None,
        run=state["run"],
        request=request_parts(state, len(state["history"]), "user"),
        reply=reply_parts(state),
        prompt=unpack_ids(state["prompt"]),
        generation=unpack(state["generation"], state["seed"]),
        bounds=bounds_here(options, engine),
        sampling=sampling(options, engine.sampling),
        model=engine.name,
        fingerprints=dict(engine.fingerprints),
        versions=dict(engine.versions),
        timings={name: round(seconds, 6) for name, seconds in state["timings"].items()},
        options=recorded_options(options, state),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        dropped=state["dropped"],
    )


def reply_parts(state: State) -> tuple[Part, ...]:
    """The reply's parts in their order, each medium at its segment's place."""
    made = {item["position"]: item for item in state["made"]}
    return tuple(part_value(_with_medium(part, made)) for part in state["reply"])


def _with_medium(part: PartState, made: dict[int, Any]) -> PartState:
    found = made.get(part["position"])
    return part if found is None else {**part, "media": found["media"]}


def recorded_options(options: Context, state: State) -> dict[str, str | int | float | bool | None]:
    """The options that neither the bounds nor the sampling say, and how many earlier exchanges were encoded afresh."""
    said: dict[str, str | int | float | bool | None] = {}
    if options.voice is not None:
        said["voice"] = options.voice
    if options.template is not None:
        said["template"] = options.template
    if options.instruction is not None:
        said["instruction"] = options.instruction
    foreign = sum(not turn for turn in state["history"])
    return {**said, "foreign": foreign} if foreign else said
