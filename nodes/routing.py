"""route: the ids that were made -> the reply's segments in their order. Output is legal by construction, so parsing
suffices.

Knows no bytes and no codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime

from ..anygpt_model.grammar import parse
from ..anygpt_model.values import Modality, Part
from .detokenization import decoder_seed
from .state import Context, Event, PartState, State, part_state

if TYPE_CHECKING:
    from ..anygpt_model.engine import Engine


def route(state: State, config: RunnableConfig, runtime: Runtime[Context], *, engine: Engine) -> Any:
    """The reply's parts; each medium with the seed of its decoder. Texts are streamed as whole segments."""
    parts = parse(state["generation"]["ids"], engine.vocabulary)
    reply = [_placed(part, position, state) for position, part in enumerate(parts)]
    for part in reply:
        if part["modality"] == Modality.TEXT:
            runtime.stream_writer(
                Event(event="segment", modality=part["modality"], position=part["position"], text=part.get("text", ""))
            )
    return {"reply": reply}


def _placed(part: Part, position: int, state: State) -> PartState:
    placed = part_state(part, position, len(state["history"]), "assistant")
    if part.modality is not Modality.TEXT:
        placed["seed"] = decoder_seed(state["seed"], position)
    return placed
