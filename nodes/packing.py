"""Floats of a generation as base64 of float32 pairs, small in a checkpoint and fit for JSON."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import get_args

import numpy as np

from ..anygpt_model.values import Finish, Generation
from .state import GenerationState


def pack(generation: Generation) -> GenerationState:
    """`generation` as it travels; log-probabilities and margins are kept in float32, as the model computes."""
    scores = np.array([generation.logprobs, generation.margins], dtype="<f4")
    return GenerationState(
        ids=list(generation.ids), scores=b64encode(scores.tobytes()).decode("ascii"), finish=generation.finish
    )


def unpack(state: GenerationState, seed: int) -> Generation:
    """The generation that `pack` packed."""
    logprobs, margins = np.frombuffer(b64decode(state["scores"]), dtype="<f4").reshape(2, -1).tolist()
    finish: Finish = next(known for known in get_args(Finish) if known == state["finish"])
    return Generation(tuple(state["ids"]), tuple(logprobs), tuple(margins), finish, seed)
