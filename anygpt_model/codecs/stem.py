"""Convolutions before the patches of a small eye, which the published tokenizer has none of.

A large ViT learns from its data that neighbouring pixels belong together; a few thousand pictures don't teach that.
Knows no patches and no codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stem(nn.Module):
    """For each width one convolution that halves and one that stays. norm: with normalisation, as it is trained."""

    def __init__(self, widths: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.widths = tuple(widths)
        pairs = [each for width in widths for each in ((width, 2), (width, 1))]
        ways = zip([3, *(width for width, _ in pairs[:-1])], pairs, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1, bias=not norm) for a, (b, stride) in ways)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for width, _ in pairs)

    def seen(self, patch: int) -> tuple[int, int]:
        """Of a patch of so many pixels: its side among what the stem gives, and how many channels that has."""
        step = 1 << len(self.widths)
        return patch // step, self.widths[-1] + 3 * (step // 2) ** 2

    def convolved(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] -> [B, C, s, s], s = S / 2^widths."""
        x = pixels
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return x

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] -> [B, C', s, s]: what was found, and beside it the pixels themselves at half size."""
        found = self.convolved(pixels)
        beside = F.pixel_unshuffle(F.avg_pool2d(pixels, 2), 1 << (len(self.widths) - 1))
        return torch.cat([found, beside], 1)
