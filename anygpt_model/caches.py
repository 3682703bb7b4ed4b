"""Keys and values of sequences: one on its way in (Prefix), those kept for whoever continues them (Prefixes), all that
are being decoded (Slots). Knows no network."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

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
_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NONE = -1
"""Where a row of the table of kept ids has none."""


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
    """Caches of earlier sequences, by their ids, least recently used first out, up to a number of bytes.

    The ids of all of them are rows of one table: a prompt is compared with hundreds at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        """Bytes held."""
        self._kept: OrderedDict[int, Prefix] = OrderedDict()
        self._free: list[int] = []
        self._ids = np.full((0, 0), _NONE, dtype=np.int32)
        self._lengths = np.zeros(0, dtype=np.intp)

    def longest(self, ids: NDArray[np.int64]) -> tuple[Prefix | None, int]:
        """The cache that shares most ids with the start of `ids`, and how many (at most all but the last)."""
        shared = self._shared(ids[:-1])
        if not shared.any():
            return None, 0
        row = int(shared.argmax())
        self._kept.move_to_end(row)
        return self._kept[row], int(shared[row])

    def keep(self, ids: NDArray[np.int64], prefix: Prefix) -> None:
        """Keep a sequence's cache; those that it continues go, and the oldest ones beyond the limit."""
        if prefix.nbytes > self.limit:
            return
        continued = (self._shared(ids) == self._lengths) & (self._lengths > 0)
        for row in continued.nonzero()[0].tolist():
            self._drop(row)
        row = self._row(len(ids))
        self._ids[row, : len(ids)], self._lengths[row] = ids, len(ids)
        self._kept[row] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self.limit:
            self._drop(next(iter(self._kept)))

    def _shared(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Of each row of the table, how many of its first ids are those of `ids`."""
        width = min(len(ids), self._ids.shape[1])
        differs = np.ones((len(self._ids), width + 1), dtype=bool)
        np.not_equal(self._ids[:, :width], ids[:width].astype(np.int32), out=differs[:, :width])
        first: NDArray[np.intp] = differs.argmax(axis=1)
        return first

    def _row(self, length: int) -> int:
        """A free row of the table with room for `length` ids."""
        rows, width = self._ids.shape
        if not self._free or length > width:
            more = 0 if self._free else max(rows, PAD)
            self._ids = np.pad(self._ids, ((0, more), (0, max(length - width, 0))), constant_values=_NONE)
            self._lengths = np.pad(self._lengths, (0, more))
            self._free += range(rows, rows + more)
        return self._free.pop()

    def _drop(self, row: int) -> None:
        self.nbytes -= self._kept.pop(row).nbytes
        self._ids[row], self._lengths[row] = _NONE, 0
        self._free.append(row)

    def clear(self) -> None:
        """Let go of everything."""
        for row in list(self._kept):
            self._drop(row)


class Slots:
    """The caches of all sequences being decoded: a row each of [slots, kv heads, positions, head_dim] a layer.

    Memory of a row is touched only as far as a sequence has come, and rows are used from the first on.
    """

    def __init__(self, model: Llama, count: int, positions: int) -> None:
        s = model.shape
        size = (count, s.kv_heads, -(-positions // PAD) * PAD, s.head_dim)
        self.count = count
        self._data = _zeros((s.layers, 2, *size), model)
        self.keys = [layer[0] for layer in self._data]
        self.values = [layer[1] for layer in self._data]

    @torch.inference_mode()
    def install(self, slot: int, prefix: Prefix) -> None:
        """Copy a prefilled sequence into row `slot`."""
        copy(self._data[:, :, slot, :, : prefix.length], prefix.data[:, :, :, : prefix.length])

    @torch.inference_mode()
    def extract(self, slot: int, length: int) -> Prefix:
        """A copy of the first `length` positions of row `slot`, with room for as many more as a next turn may bring."""
        layers, both, _, heads, _, width = self._data.shape
        size = (layers, both, heads, length + length // _ROOM + PAD, width)
        data = torch.empty(size, dtype=self._data.dtype, device=self._data.device)
        copy(data[:, :, :, :length], self._data[:, :, slot, :, :length])
        return Prefix(data, length)

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy row `source` over row `target`."""
        copy(self._data[:, :, target, :, :length], self._data[:, :, source, :, :length])

    @torch.inference_mode()
    def arrange(self, sources: list[int], length: int) -> None:
        """Row n becomes what row `sources[n]` was, for its first `length` positions."""
        if sources == list(range(len(sources))):
            return
        chosen = torch.tensor(sources, device=self.keys[0].device)
        for rows in (*self.keys, *self.values):
            rows[: len(sources), :, :length] = rows[chosen, :, :length]


def copy(target: Tensor, source: Tensor) -> None:
    """Copy `source` into `target` of the same shape; on a CPU by this thread alone.

    torch would share a large copy among OpenMP's threads, which then keep the cores busy for milliseconds that the next
    pass needs.
    """
    if target.device.type == "cpu":
        np.copyto(_bits(target), _bits(source))
    else:
        target.copy_(source)


def _bits(tensor: Tensor) -> NDArray[Any]:
    return tensor.view(_SAME_SIZE[tensor.element_size()]).numpy()  # numpy has no bfloat16


def _zeros(size: tuple[int, ...], model: Llama) -> Tensor:
    """Zeros whose memory is taken only when touched, on a CPU. Masked values get multiplied too: keep them finite."""
    if model.device.type != "cpu":
        return torch.zeros(size, dtype=model.dtype, device=model.device)
    flat = np.zeros(math.prod(size) * model.embedding.element_size(), dtype=np.uint8)
    return torch.from_numpy(flat).view(model.dtype).view(size)
