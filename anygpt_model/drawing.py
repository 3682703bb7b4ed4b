"""The draws of a step, for all replies that may say the same: by machine code (draw.c) where it can be built, else by
numpy (redrawing.py).

A row's draw is that of the row alone, bit for bit. The two ways differ in the last places of what they tell beside the
id, so one engine keeps to one. Knows no model and no grammar.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .machine_code import library, wanted
from .redrawing import decide_rows
from .sampling import Decision
from .values import Sampling

_MASK = 0xFFFFFFFFFFFFFFFF
NO_NUMBERS = (
    "The model's logits are no numbers (NaN or infinite): its weights are damaged, or too large for the type that they "
    "are computed in; fetch the checkpoint again, or open it with dtype float32."
)


class _Settings(ctypes.Structure):
    """draw.c's `settings`."""

    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("penalty", ctypes.c_double),
        ("top_k", ctypes.c_int64),
    )


class Drawing:
    """Draws ids from logits. One thread at a time."""

    def __init__(self) -> None:
        self._library = _opened() if wanted() else None
        self._rows = 0
        self._room = np.empty(0)

    def __call__(
        self,
        logits: NDArray[np.float32],
        ids: NDArray[np.int64],
        sampling: Sampling,
        draws: Sequence[tuple[int, int]],
        repeated: NDArray[np.bool_] | None = None,
    ) -> list[Decision]:
        """For each row of `logits` [rows, n] of `ids` [n], of seed and step `draws[r]`, what sampling.decide finds.

        repeated [rows, n]: to which ids the repetition penalty applies. Raises CheckpointError for logits that are no
        numbers.
        """
        if self._library is None:
            if not (logits < np.inf).all():
                raise CheckpointError(NO_NUMBERS)
            return decide_rows(logits, ids, sampling, draws, repeated)
        rows, columns = logits.shape
        self._reserve(rows, 2 * columns)
        logits = np.ascontiguousarray(logits)
        self._numbers[0, :rows] = [seed & _MASK for seed, _ in draws]
        self._numbers[1, :rows] = [step for _, step in draws]
        self._library.draw(
            rows, columns, logits.ctypes.data, ids.ctypes.data,
            None if repeated is None else repeated.ctypes.data, _settings(sampling), *self._places,
            self._room.ctypes.data,
        )  # fmt: skip
        chosen = self._chosen[:rows]
        if chosen.min() < 0:
            raise CheckpointError(NO_NUMBERS)
        found = zip(ids[chosen].tolist(), *self._told[:, :rows].tolist(), strict=True)
        return [Decision(*drawn) for drawn in found]

    def _reserve(self, rows: int, room: int) -> None:
        """Have memory for so many rows, and for so many numbers beside them."""
        if rows > self._rows:
            self._rows = rows
            self._numbers = np.empty((2, rows), np.uint64)
            self._chosen = np.empty(rows, np.int64)
            self._told = np.empty((2, rows))
            arrays = (*self._numbers, self._chosen, *self._told)
            self._places = [array.ctypes.data for array in arrays]
        if room > len(self._room):
            self._room = np.empty(room)


@lru_cache(maxsize=64)
def _settings(sampling: Sampling) -> ctypes.Array[_Settings]:
    """As an array, since that is what may be passed where a pointer is taken."""
    penalty, top_k = sampling.repetition_penalty, max(sampling.top_k, 0)
    return (_Settings * 1)(_Settings(sampling.temperature, sampling.top_p, penalty, top_k))


def _opened() -> ctypes.CDLL | None:
    found = library("draw.c", (), "ids are drawn by numpy")
    if found is not None:
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        found.draw.argtypes, found.draw.restype = [integer, integer, *[pointer] * 10], None
    return found
