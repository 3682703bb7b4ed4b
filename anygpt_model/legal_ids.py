"""A set of ids that may come next, as ranges: what the grammar says and what the output layer computes.

Knows no rule and no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .values import Modality

Ranges = tuple[tuple[int, int], ...]
"""Id ranges (start, stop), ascending."""
_WIDE = 8
"""Ranges at least this wide are slices of the output layer; narrower ones are gathered column by column."""


@dataclass(frozen=True, slots=True)
class Legal:
    """The ids that may come next, in the order in which their logits are computed: `slices`, then `singles`.

    modality: whose sampling settings draw the id.
    """

    modality: Modality
    slices: Ranges
    singles: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many ids may come next."""
        return sum(stop - start for start, stop in self.slices) + len(self.singles)

    def __contains__(self, token: int) -> bool:
        return token in self.singles or any(start <= token < stop for start, stop in self.slices)

    def ids(self) -> NDArray[np.int64]:
        """All of them as an array [size], in order."""
        return _ids(self)


@lru_cache(maxsize=512)
def _ids(legal: Legal) -> NDArray[np.int64]:
    pieces = [np.arange(start, stop, dtype=np.int64) for start, stop in legal.slices]
    found = np.concatenate([*pieces, np.asarray(legal.singles, dtype=np.int64)])
    found.setflags(write=False)
    return found


@lru_cache(maxsize=4096)
def interned(modality: Modality, ranges: Ranges) -> Legal:
    """Interned, so that equal sets are one object and their slices are prepared once."""
    slices = tuple(pair for pair in ranges if pair[1] - pair[0] >= _WIDE)
    narrow = tuple(token for start, stop in ranges if stop - start < _WIDE for token in range(start, stop))
    return Legal(modality, slices, narrow)


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return tuple(joined)
