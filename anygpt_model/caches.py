"""Keys and values of sequences: one on its way in (Prefix), all that are being decoded (Slots). Knows no network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .llama import Llama

PAD = 16
"""Attention lengths are padded to a multiple of this; the padding changes no bit of the result."""


class Prefix:
    """Keys and values of one sequence: [layers, 2, kv heads, positions, head_dim], `length` of them filled."""

    def __init__(self, data: Tensor, length: int = 0) -> None:
        self.data = data
        self.length = length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.numel() * self.data.element_size()


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
        """A copy of the first `length` positions of row `slot`."""
        pairs = zip(self.keys, self.values, strict=True)
        data = torch.stack([torch.stack([keys[slot, :, :length], values[slot, :, :length]]) for keys, values in pairs])
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
