"""The long rows of a run, ids and scores, as text that is small in a checkpoint and fit for JSON. Knows no model."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import get_args

import numpy as np

from ..anygpt_model.values import Finish, Generation
from .state import GenerationState


def pack_ids(ids: Sequence[int]) -> str:
    """Ids in about two thirds of a list's room: a prompt stands in three checkpoints of each turn."""
    planes = np.asarray(ids, dtype="<i4").view(np.uint8).reshape(-1, 4).T  # high bytes together: they are much alike
    return b64encode(zlib.compress(planes.tobytes())).decode("ascii")


def unpack_ids(packed: str) -> tuple[int, ...]:
    """The ids that `pack_ids` packed."""
    planes = np.frombuffer(zlib.decompress(b64decode(packed)), dtype=np.uint8).reshape(4, -1)
    return tuple(np.ascontiguousarray(planes.T).view("<i4").ravel().tolist())


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
