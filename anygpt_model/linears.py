"""Products with one weight, and how many rows of them have equal bits in any company. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_COLUMNS = 1 << 19
"""Elements of a weight that one product reads on a CPU: larger ones are slower a column when the rows are few."""
_TRIED = 32
"""Rows among which fewer are tried."""


class Linear:
    """x [rows, in] -> [rows, out]; on a CPU in float32 by column blocks of the transposed weight."""

    def __init__(self, weight: Tensor, transposed: bool) -> None:
        """weight: [out, in]."""
        self.blocks: list[Tensor] = []
        self.weight: Tensor | None = None if transposed else weight
        if transposed:
            self.blocks = [weight[start:stop].t().contiguous() for start, stop in column_blocks(0, *weight.shape)]

    @property
    def tensors(self) -> list[Tensor]:
        """What is multiplied with."""
        return self.blocks if self.weight is None else [self.weight]

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            return F.linear(x, self.weight)
        if len(self.blocks) == 1:
            return x @ self.blocks[0]
        return torch.cat([x @ block for block in self.blocks], dim=-1)


def column_blocks(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """Cut columns start..stop of a weight with `rows` rows into equal parts, so that none is a single column."""
    count = -(-(stop - start) * rows // _COLUMNS)
    size = -(-(stop - start) // count)
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


@torch.inference_mode()
def rows_that_agree(products: Sequence[tuple[Linear, int]]) -> int | None:
    """The least number of rows of which any multiple gives a row the same bits in each product, of inputs that wide;
    None where none does. Which kernel multiplies depends on the rows: on Intel's processors MKL takes twos alike, on
    AMD's fours."""
    tried = []
    for linear, width in products:
        x = torch.linspace(-1, 1, _TRIED * width).sin().view(_TRIED, width)
        tried.append((linear, x, linear(x)))

    def agree(rows: int) -> bool:
        parts = [slice(at, at + rows) for at in range(0, _TRIED - rows + 1, rows)]
        return all(torch.equal(linear(x[part]), whole[part]) for linear, x, whole in tried for part in parts)

    return next((rows for rows in (2, 4, 8, 16) if all(map(agree, range(rows, _TRIED, rows)))), None)
