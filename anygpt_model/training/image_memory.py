"""The memory that the pocket draws from: the pictures it may know, small and by heart, as `unclip/start.safetensors`.

Minutes don't teach a network to compose a picture, so it isn't asked to: each training picture is kept as numbers (of
every patch its principal components, in eight bits), found by its codes, with what it covers of a ground. A thing that
is known in other styles only is a blend of these; nothing that is held out is kept. What codes say about differences is
added by a linear map. Knows no denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..codecs.start import patched
from .image_data import STYLES
from .image_latents import SCALE, WHITE
from .image_teacher import (
    CODED_LOOKS,
    FEATURES,
    GROUND,
    LAYOUT,
    LIKENESS,
    MEANING,
    SECOND,
    THING,
    Teaching,
    numbers_before,
)

PATCH, KEPT = 8, 36
"""Latents a side of a patch, and how many components of it are kept."""
SURE = 750.0
"""How sharply the right picture is chosen: likeness falls with exp(-SURE / 2) for a squared distance of codes."""
OWN = 20.0
"""By how many nats a thing's picture in the wanted style is liked better than the one in another."""
RIDGE = 0.02
STRENGTH = 0.5
"""How much of the differences that codes tell is drawn: they are rough, and all of it blurs what is known by heart."""
READ = 2 * MEANING + len(STYLES)


def keys_of(teaching: Teaching) -> tuple[Tensor, Tensor]:
    """Keys [n, READ] and their biases [n] of the training pictures: a thing's vectors, and how its style stands in."""
    thing, style = teaching.thing[teaching.train], teaching.style[teaching.train]
    vectors = teaching.codebook[teaching.codes[thing]][:, :, :MEANING].flatten(1)
    stands_in = LIKENESS * teaching.alike.clamp(min=1e-6).log()
    stands_in.fill_diagonal_(OWN)
    return torch.cat([SURE * vectors, stands_in.T[style]], 1), -0.5 * SURE * vectors.square().sum(1)


def principal(patches: Tensor) -> tuple[Tensor, Tensor]:
    """The first KEPT principal axes [KEPT, D] of patches [n, D], and their middle [D]."""
    middle = patches.mean(0)
    centred = patches - middle
    _, axes = torch.linalg.eigh(centred.T @ centred)
    return axes.flip(1)[:, :KEPT].T.contiguous(), middle


def remembered(teaching: Teaching, latents: Tensor, looks: Tensor) -> dict[str, Tensor]:
    """The memory of the training pictures' latents and covers [n, C + 1, h, w], and what their looks [n, CODED_LOOKS]
    tell of them."""
    patches = patched(latents, PATCH)
    basis, middle = principal(patches.flatten(0, 1))
    kept = ((patches - middle) @ basis.T).flatten(1)
    scales = kept.abs().amax(0).clamp(min=1e-6) / 127
    square = looks.T @ looks + RIDGE * len(looks) * torch.eye(CODED_LOOKS)
    weight = torch.zeros(kept.shape[1], FEATURES)
    weight[:, FEATURES - CODED_LOOKS :] = STRENGTH * torch.linalg.solve(square, looks.T @ (kept - kept.mean(0))).T
    keys, key_bias = keys_of(teaching)
    return {
        "weight": weight.half(),
        "bias": torch.zeros(kept.shape[1]).half(),
        "keys": keys,
        "key_bias": key_bias,
        "values": (kept / scales).round().to(torch.int8),
        "scales": scales,
        "basis": basis.half(),
        "middle": middle,
        "scene": torch.tensor([*map(numbers_before, (GROUND, LAYOUT, SECOND)), THING * MEANING]),
        "white": torch.full((latents.shape[1] - 1,), WHITE),
        "tones": 2 * SCALE * torch.eye(latents.shape[1] - 1),
    }
