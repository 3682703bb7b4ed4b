"""What a picture starts from: a guess of its latents from the image embedding, from which the denoiser sets out.

A small denoiser can't compose. So a model folder may hold a memory of the pictures it was trained on (`unclip/
start.safetensors`): what the embedding is nearest to is recalled, blended where nothing is quite near, and what the
embedding says about differences is added linearly. Of a scene, each thing is recalled by itself and put where the
embedding says (scene.py). Published models have none. Knows no codes and no denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .scene import LAYOUTS, composed

START = "start.safetensors"
"""Name of the file in the pipeline's folder."""
RECALLED = 16
"""How many of the nearest pictures are blended at most."""
NOTHING, CHOSEN = 0.1, 0.5
"""Below these a second thing's numbers are none, and no layout but the whole is meant."""


class Start:
    """A guess of latents from an embedding of F numbers.

    weight [D, F], bias [D]: the linear part. keys [N, R], key_bias [N], values int8 [N, D], scales [D]: the memory,
    read by the embedding's first R numbers; absent where there is none. basis [K, C * p * p], middle [C * p * p]: the
    guess is [patches, K], of patches of p x p latents, row by row; absent where the guess is the latents.
    scene int64 [4]: where in the embedding the ground's three numbers, the layout's and the second thing's begin, and
    how many these are, as many as the first thing's, with which the embedding begins. Then a thing is recalled with one
    channel more, what it covers; white [C] and tones [C, 3] tell the ground's latents. Absent where there are no
    scenes.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        exact = (torch.int8, torch.int64)
        self.tensors = {name: each if each.dtype in exact else each.float() for name, each in tensors.items()}

    def guess(self, embedding: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Latents of `shape` [1, C, h, w] for an embedding [F]."""
        told = embedding.float().cpu()
        if "scene" not in self.tensors:
            return self._thing(told, shape)
        ground, layout, second, width = self.tensors["scene"].tolist()
        style, tone, chosen, other = told[width:ground], told[ground:layout], told[layout:second], told[second:]
        first, other = told, torch.cat([other[:width], style, torch.zeros_like(told[ground:])])
        known = [first, other] if other[:width].norm() > NOTHING else [first]
        things = [self._thing(each, (1, shape[1] + 1, *shape[2:]))[0] for each in known]
        place = LAYOUTS[1 + int(chosen.argmax()) if chosen.max() > CHOSEN else 0]
        white = self.tensors["white"]
        return composed(things, place, white, white + self.tensors["tones"] @ tone)[None]

    def _thing(self, told: Tensor, shape: tuple[int, ...]) -> Tensor:
        part = self.tensors
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
