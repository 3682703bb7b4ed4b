"""How many rows must be multiplied together for a row's bits not to depend on the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anyloom.anygpt_model.linears import Linear, rows_that_agree


class Kernels(Linear):
    """A machine that takes another kernel, with other last bits, where the rows are no multiple of `alike`."""

    def __init__(self, alike: int) -> None:
        self.alike = alike

    def __call__(self, x: Tensor) -> Tensor:
        return x * (1.0 if len(x) % self.alike == 0 else 1.0 + 2**-20)


@pytest.mark.parametrize("alike", [2, 4, 8, 16])
def test_the_least_number_of_rows_is_found(alike: int) -> None:
    assert rows_that_agree([(Kernels(2), 7), (Kernels(alike), 5)]) == alike


def test_where_none_agree_that_is_said() -> None:
    assert rows_that_agree([(Kernels(2), 5), (Kernels(32), 5)]) is None


def test_blocks_of_a_weight_make_the_whole_product() -> None:
    draws = torch.Generator().manual_seed(1)
    weight, x = torch.randn(2000, 600, generator=draws), torch.randn(4, 600, generator=draws)
    blocks = Linear(weight, transposed=True)
    assert len(blocks.tensors) == 3
    torch.testing.assert_close(blocks(x), Linear(weight, transposed=False)(x), atol=1e-3, rtol=1e-4)
