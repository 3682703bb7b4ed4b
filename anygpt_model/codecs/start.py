"""What a picture starts from: a guess of its latents from the image embedding, from which the denoiser sets out.

A small denoiser can't compose. So a model folder may hold a memory of the pictures it was trained on (`unclip/
start.safetensors`): what the embedding is nearest to is recalled, blended where nothing is quite near, and what the
embedding says about differences is added linearly. Published models have none. Knows no codes and no denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

START = "start.safetensors"
"""Name of the file in the pipeline's folder."""
RECALLED = 16
"""How many of the nearest pictures are blended at most."""


class Start:
    """A guess of latents from an embedding of F numbers.

    weight [D, F], bias [D]: the linear part. keys [N, R], key_bias [N], values int8 [N, D], scales [D]: the memory,
    read by the embedding's first R numbers; absent where there is none. basis [K, C * p * p], middle [C * p * p]: the
    guess is [patches, K], of patches of p x p latents, row by row; absent where the guess is the latents.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: each if each.dtype == torch.int8 else each.float() for name, each in tensors.items()}

    def guess(self, embedding: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Latents of `shape` [1, C, h, w] for an embedding [F]."""
        part = self.tensors
        told = embedding.float().cpu()
        found = part["weight"] @ told + part["bias"]
        if "keys" in part:
            found = found + self._recalled(told)
        if "basis" in part:
            found = unpatched(found.reshape(-1, len(part["basis"])) @ part["basis"] + part["middle"], shape)
        return found.reshape(shape)

    def _recalled(self, told: Tensor) -> Tensor:
        keys = self.tensors["keys"]
        near = (keys @ told[: keys.shape[1]] + self.tensors["key_bias"]).softmax(0)
        share, rows = near.topk(min(RECALLED, len(near)))
        return share @ self.tensors["values"][rows].float() * self.tensors["scales"]


def patched(latents: Tensor, side: int) -> Tensor:
    """Latents [N, C, h, w] as patches [N, h * w / side^2, C * side * side], row by row."""
    return torch.nn.functional.unfold(latents, side, stride=side).transpose(1, 2)


def unpatched(patches: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Patches [h * w / p^2, C * p * p] as latents of `shape` [1, C, h, w]."""
    side = round((patches.shape[1] / shape[1]) ** 0.5)
    return torch.nn.functional.fold(patches.T[None], shape[2:], side, stride=side)
