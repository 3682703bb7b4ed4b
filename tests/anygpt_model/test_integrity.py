"""Checksums of weights: whatever one number is changed, it shows; what was not changed does not."""

from typing import Any

import pytest
import torch
from torch import nn

from anyloom.anygpt_model.integrity import changed, checksum, checksums, weights_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (64, 65), (3, 5, 129)])
def test_each_changed_number_shows(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 40).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    flat = tensor.view(-1)
    for place in {0, len(flat) // 2, len(flat) - 1}:
        kept = flat[place].item()
        flat[place] += 1
        assert checksum(tensor) != before
        flat[place] = kept
    assert checksum(tensor) == before


def test_one_bit_and_two_exchanged_numbers_show() -> None:
    tensor = torch.linspace(-1, 1, 4096)
    before = checksum(tensor)
    tensor.view(torch.int32)[77] ^= 1
    assert checksum(tensor) != before
    tensor.view(torch.int32)[77] ^= 1
    tensor[[10, 901]] = tensor[[901, 10]]
    assert checksum(tensor) != before


def test_kind_and_shape_count_and_places_in_memory_do_not() -> None:
    tensor = torch.zeros(6, 4)
    assert len({checksum(tensor), checksum(tensor.view(4, 6)), checksum(tensor.view(torch.int32))}) == 3
    odd = torch.arange(100, dtype=torch.bfloat16)[1:]
    assert checksum(odd) == checksum(odd.clone())
    assert checksum(tensor.t()) == checksum(tensor.t().contiguous())


def test_where_there_are_no_numbers_kind_and_shape_count() -> None:
    nothing = torch.empty(64, 40, device="meta")
    assert checksum(nothing) == checksum(torch.empty_like(nothing))
    assert len({checksum(nothing), checksum(nothing.t()), checksum(nothing.half()), checksum(torch.zeros(64, 40))}) == 4


class Holder:
    """Networks where codecs have them: in attributes, and in attributes of those."""

    def __init__(self, inner: Any = None) -> None:
        self._network = nn.Linear(3, 2)
        self.inner, self.number, self.name = inner, 3, "holder"


def test_the_weights_of_what_an_object_holds_are_found() -> None:
    holder = Holder(Holder())
    names = {"network.weight", "network.bias", "inner.network.weight", "inner.network.bias"}
    found = weights_of(holder)
    assert set(found) == names
    before = checksums(found)
    with torch.no_grad():
        holder.inner._network.bias[1] += 1
    assert changed(before, checksums(weights_of(holder))) == ("inner.network.bias",)
    assert changed(before, {}) == tuple(sorted(names))
