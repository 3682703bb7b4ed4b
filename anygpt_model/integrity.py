"""Whether the weights in memory are still those that were loaded: a checksum of each tensor, taken and taken again.

A fingerprint speaks of files, this of what computes. One number changed always shows; so do two that were exchanged,
but for bad luck: it guards against faults and forgotten edits, not against an adversary. Reads memory once, so a small
model's costs milliseconds. Knows no network, no file and no turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Checksums = dict[str, str]
"""Name of a tensor -> its checksum."""
_BLOCK, _WORD = 2048, 8
"""Bytes. Words are summed over all blocks, each place of a block by itself, modulo 2^64: where one word differs, its
sum does."""
_DEPTH = 3
"""How deep an object holds its networks."""


def checksums(tensors: Mapping[str, Tensor]) -> Checksums:
    """The checksum of each tensor: of its kind, its shape and its bytes."""
    return {name: checksum(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def checksum(tensor: Tensor) -> str:
    """Of one tensor, on whatever device; 16 hexadecimal digits. One that holds no numbers ("meta") is kind and
    shape."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.is_meta:
        return found.hexdigest()[:16]
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            found.update(checksum(getattr(tensor, name)).encode())
        return found.hexdigest()[:16]
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.storage_offset() % _WORD:
        raw = raw.clone()
    whole = len(raw) // _BLOCK * _BLOCK
    rows = raw[:whole].view(torch.int64).view(-1, _BLOCK // _WORD)
    # numpy sums columns ten times as fast as torch does on a CPU; both wrap around.
    sums = rows.numpy().sum(axis=0) if raw.device.type == "cpu" else rows.sum(dim=0).cpu().numpy()
    found.update(sums.tobytes() + raw[whole:].cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def changed(before: Checksums, now: Checksums) -> tuple[str, ...]:
    """Names of the tensors that are not what they were, in order."""
    return tuple(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))


def weights_of(holder: Any) -> dict[str, Tensor]:
    """The weights of every network that an object holds, by where they are found in it."""
    return dict(_found(holder, "", _DEPTH))


def _found(holder: Any, place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(holder, nn.Module):
        yield from ((f"{place}{name}", tensor) for name, tensor in holder.state_dict().items())
    elif depth and hasattr(holder, "__dict__"):
        for name, value in vars(holder).items():
            yield from _found(value, f"{place}{name.lstrip('_')}.", depth - 1)
