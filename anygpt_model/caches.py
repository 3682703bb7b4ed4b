"""Keys and values of sequences: one on its way in (Prefix), those kept for whoever continues them (Prefixes), all that
are being decoded (Slots). Knows no network."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .llama import Llama

PAD = 16
"""Attention lengths are padded to a multiple of this; the padding changes no bit of the result."""


_ROOM = 4
"""A kept cache has room for one position more for each so many that it holds."""


class Prefix:
    """Keys and values of one sequence: [layers, 2, kv heads, positions, head_dim], `length` of them filled."""

    def __init__(self, data: Tensor, length: int = 0) -> None:
        self.data = data
        self.length = length

    @property
    def positions(self) -> int:
        """Ids that it has room for."""
        return self.data.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.numel() * self.data.element_size()


class Prefixes:
    """Caches of earlier sequences, by their ids, least recently used first out, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[bytes, tuple[NDArray[np.int64], Prefix]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(prefix.nbytes for _, prefix in self._kept.values())

    def longest(self, ids: NDArray[np.int64]) -> tuple[Prefix | None, int]:
        """The cache that shares most ids with the start of `ids`, and how many (at most all but the last)."""
        best: bytes | None = None
        shared = 0
        for key, (known, _) in self._kept.items():
            reach = min(len(known), len(ids) - 1)
            differs = np.flatnonzero(known[:reach] != ids[:reach])
            count = int(differs[0]) if len(differs) else reach
            if count > shared:
                best, shared = key, count
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best][1], shared

    def keep(self, ids: NDArray[np.int64], prefix: Prefix) -> None:
        """Keep a sequence's cache; those that it continues go, and the oldest ones beyond the limit."""
        if prefix.nbytes > self.limit:
            return
        for key, (known, _) in list(self._kept.items()):
            if len(known) <= len(ids) and np.array_equal(known, ids[: len(known)]):
                del self._kept[key]
        self._kept[ids.tobytes()] = (ids, prefix)
        while self.nbytes > self.limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()


class Slots:
    """The caches of all sequences being decoded: a row each of [slots, kv heads, positions, head_dim] a layer.

    Memory of a row is touched only as far as a sequence has come, and rows are used from the first on.
    """

    def __init__(self, model: Llama, count: int, positions: int) -> None:
        s = model.shape
        size = (count, s.kv_heads, -(-positions // PAD) * PAD, s.head_dim)
        self.count = count
        self.keys = [_zeros(size, model) for _ in range(s.layers)]
        self.values = [_zeros(size, model) for _ in range(s.layers)]

    @torch.inference_mode()
    def install(self, slot: int, prefix: Prefix) -> None:
        """Copy a prefilled sequence into row `slot`."""
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            keys[slot, :, : prefix.length] = prefix.data[layer, 0, :, : prefix.length]
            values[slot, :, : prefix.length] = prefix.data[layer, 1, :, : prefix.length]

    @torch.inference_mode()
    def extract(self, slot: int, length: int) -> Prefix:
        """A copy of the first `length` positions of row `slot`, with room for as many more as a next turn may bring."""
        keys = self.keys[0]
        size = (len(self.keys), 2, keys.shape[1], length + length // _ROOM + PAD, keys.shape[3])
        data = torch.empty(size, dtype=keys.dtype, device=keys.device)
        for layer, pair in enumerate(zip(self.keys, self.values, strict=True)):
            for which, rows in enumerate(pair):
                data[layer, which, :, :length] = rows[slot, :, :length]
        return Prefix(data, length)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy row `source` over row `target`."""
        for rows in (*self.keys, *self.values):
            rows[target, :, :length] = rows[source, :, :length]

    @torch.inference_mode()
    def arrange(self, sources: list[int], length: int) -> None:
        """Row n becomes what row `sources[n]` was, for its first `length` positions."""
        if sources == list(range(len(sources))):
            return
        chosen = torch.tensor(sources, device=self.keys[0].device)
        for rows in (*self.keys, *self.values):
            rows[: len(sources), :, :length] = rows[chosen, :, :length]


def _zeros(size: tuple[int, ...], model: Llama) -> Tensor:
    """Zeros whose memory is taken only when touched, on a CPU. Masked values get multiplied too: keep them finite."""
    if model.device.type != "cpu":
        return torch.zeros(size, dtype=model.dtype, device=model.device)
    flat = np.zeros(math.prod(size) * model.embedding.element_size(), dtype=np.uint8)
    return torch.from_numpy(flat).view(model.dtype).view(size)
