"""A codec that stays on the CPU and is lent the device for the length of one call. Knows no modality.

What it costs is the way of the weights to the device and back; what it saves is their place on the device while the
language model works.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .protocol import Array, Codec, Codes

RESTING_PLACE = "cpu"


class Movable(Codec, Protocol):
    """A codec whose weights can be moved."""

    def to(self, device: str) -> None:
        """Move all weights to `device`."""
        ...


class Lent:
    """`codec` with the device for each call. turn: held during a call, shared by the codecs of one engine, so that no
    two of them are on the device at once."""

    def __init__(self, codec: Movable, device: str, turn: threading.Lock) -> None:
        """codec: opened on the CPU."""
        self._codec, self._device, self._turn = codec, device, turn

    @property
    def cardinality(self) -> int:
        """The codec's."""
        return self._codec.cardinality

    @property
    def num_codebooks(self) -> int:
        """The codec's."""
        return self._codec.num_codebooks

    @property
    def frame_rate(self) -> float:
        """The codec's."""
        return self._codec.frame_rate

    @property
    def sample_rate(self) -> int:
        """The codec's."""
        return self._codec.sample_rate

    def encode(self, array: Array) -> Codes:
        """The codec's, on the device."""
        with self._lending():
            return self._codec.encode(array)

    def decode(self, codes: Codes, *, seed: int = 0, voice: NDArray[np.float32] | None = None) -> Array:
        """The codec's, on the device."""
        with self._lending():
            return self._codec.decode(codes, seed=seed, voice=voice)

    @contextmanager
    def _lending(self) -> Iterator[None]:
        with self._turn:
            try:
                self._codec.to(self._device)
                yield
            finally:
                self._codec.to(RESTING_PLACE)
                _give_back(self._device)


def _give_back(device: str) -> None:
    """Hand the freed memory to whoever needs it next: torch would keep it for itself."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
