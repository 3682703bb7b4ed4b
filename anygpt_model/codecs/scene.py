"""How a scene is laid out: on which ground, and where its one or two things stand.

What the pocket's eye looks for, what its hand draws and what the recipe composes are these. Knows no thing, no code and
no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a picture's side."""

GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (229, 115, 115),
    "orange": (255, 183, 100),
    "yellow": (255, 236, 139),
    "green": (165, 214, 137),
    "blue": (144, 190, 245),
    "purple": (190, 150, 225),
    "pink": (248, 187, 218),
    "brown": (188, 152, 126),
    "black": (60, 60, 60),
    "grey": (190, 190, 190),
}
"""The colours of grounds as they are drawn: pale, so that a thing of the same colour stands out. The order is frozen
(codes number grounds by it)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the things of a scene stand. windows: one box a thing, in the order in which captions name them."""

    name: str
    windows: tuple[Box, ...]


def half(left: int, top: int) -> Box:
    """A box of nearly half a side whose place is given in quarters of the side; the margin keeps things apart."""
    margin = 1 / 64
    return left / 4 + margin, top / 4 + margin, left / 4 + 0.5 - margin, top / 4 + 0.5 - margin


LAYOUTS = (
    Layout("whole", ((0.0, 0.0, 1.0, 1.0),)),
    Layout("left", (half(0, 1),)),
    Layout("right", (half(2, 1),)),
    Layout("top", (half(1, 0),)),
    Layout("bottom", (half(1, 2),)),
    Layout("beside", (half(0, 1), half(2, 1))),
    Layout("above", (half(1, 0), half(1, 2))),
)
"""The layouts of scenes; the order is frozen."""


def composed(things: Sequence[Tensor], layout: Layout, white: Tensor, ground: Tensor) -> Tensor:
    """A scene [C, h, w] of things [C + 1, h, w], each seen on white with how much of a point it covers as the last.

    white, ground: what both colours are in C channels. Pixels and latents that are linear in them are taken alike.
    """
    height, width = things[0].shape[1:]
    scene = ground[:, None, None].repeat(1, height, width)
    for thing, (left, top, right, bottom) in zip(things, layout.windows, strict=False):
        across = slice(round(left * width), round(right * width))
        down = slice(round(top * height), round(bottom * height))
        size = down.stop - down.start, across.stop - across.start
        part = thing
        if size != (height, width):
            part = F.interpolate(thing[None], size, mode="bicubic", antialias=True)[0]
        scene[:, down, across] = part[:-1] + (1 - part[-1:].clamp(0, 1)) * (ground - white)[:, None, None]
    return scene
