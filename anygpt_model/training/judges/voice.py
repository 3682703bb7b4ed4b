"""Who speaks: Resemblyzer's voice vectors, and by how much a made voice is nearer to its prompt's than to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from .bounds import Score, mean

NAME = "Resemblyzer"
SAMPLE_RATE = 16_000
Sound = NDArray[np.float32]


class Voices:
    """Vectors [256] of length 1 of 16 kHz sounds; alike for the same speaker."""

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder
        except ModuleNotFoundError:
            raise CheckpointError(
                "Judging voices needs Resemblyzer; install it with `pip install --no-deps resemblyzer webrtcvad-wheels`"
                " (the package that it names for webrtcvad needs a compiler)."
            ) from None
        self._encoder: Any = VoiceEncoder("cpu", verbose=False)

    def vectors(self, sounds: Sequence[Sound]) -> NDArray[np.float32]:
        """[n, 256] of sounds of any length; one shorter than a second is repeated."""
        whole = [np.resize(sound, max(len(sound), SAMPLE_RATE)) for sound in sounds]
        return np.stack([np.asarray(self._encoder.embed_utterance(sound), np.float32) for sound in whole])


def nearer(made: NDArray[np.float32], own: NDArray[np.float32], other: NDArray[np.float32]) -> Score:
    """Mean of cosine to one's own voice less cosine to another's; rows of unit vectors [n, d]."""
    gained: list[float] = ((made * own).sum(1) - (made * other).sum(1)).tolist()
    return mean(gained)
