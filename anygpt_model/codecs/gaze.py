"""Where the pocket's eye looks: the colour of an even ground, and the one or two things that stand on it.

The eye recognises one thing that fills a picture on white. So a picture whose rim has one colour is taken apart first:
each thing of a known layout becomes a picture of its own, on white. Any other picture is looked at as a whole. Knows
no code and no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scene import GROUNDS, LAYOUTS, Box, Layout

Picture = NDArray[np.uint8]

SIDE = 64
"""Pixels a side at which a picture is taken apart: a line between two windows is two of them wide."""
EDGE, RIM = 1, 2
"""Which pixels from the edge on are its rim: the outermost are often cut, or blurred into what lies beyond."""
EVEN, MOSTLY = 24, 0.7
"""How far a rim's colours may lie from its middle one, of 255, and how much of the rim may not lie farther."""
STRANGE = 28
"""From which difference on a pixel is no ground."""
COVERING = 64
"""From which difference on none of the ground shows through."""
WHITE = 244
"""A ground all of whose channels reach this is white."""
BEYOND = 0.01
"""Share of a scene's pixels that may be strange outside of its windows."""
PARTED = 0.05
"""Share of a line through the middle that may be strange between two things."""
FILLED = 0.05
"""Share of each window that must be strange."""
PURE = {
    "red": (215, 25, 30),
    "orange": (255, 130, 0),
    "yellow": (255, 225, 20),
    "green": (25, 140, 50),
    "blue": (30, 80, 215),
    "purple": (120, 30, 160),
    "pink": (255, 90, 170),
    "brown": (110, 65, 30),
    "black": (0, 0, 0),
    "grey": (120, 120, 120),
}
"""Other tones that are called like the grounds that are drawn."""


@dataclass(frozen=True, slots=True)
class Seen:
    """ground and layout: places in GROUNDS and LAYOUTS. glances: pictures uint8 [h, w, 3], one a thing."""

    ground: int
    layout: int
    glances: tuple[Picture, ...]


def look(picture: Picture) -> Seen:
    """Take a picture uint8 [h, w, 3] apart."""
    square = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
    small = np.asarray(square).astype(np.int16)
    inner = small[EDGE:-EDGE, EDGE:-EDGE]
    rim = np.ones(inner.shape[:2], bool)
    rim[RIM - EDGE : EDGE - RIM, RIM - EDGE : EDGE - RIM] = False
    tone = np.median(inner[rim], axis=0)
    even = apart(inner, tone) < EVEN
    # An icon that is a tile with round corners has a rim of one colour too, but not in its corners.
    if even[rim].mean() < MOSTLY or not even[:: len(even) - 1, :: len(even) - 1].all():
        return Seen(0, 0, (picture,))
    layout = layout_of(np.pad(apart(inner, tone) > STRANGE, EDGE))
    ground = named(tone)
    if not ground and not layout:
        return Seen(0, 0, (picture,))
    return Seen(ground, layout, tuple(glance(picture, box, tone) for box in LAYOUTS[layout].windows))


def apart(colours: NDArray[np.int16], tone: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far colours [..., 3] lie from a tone [3]: the largest difference of a channel."""
    return np.abs(colours - tone).max(-1)  # type: ignore[no-any-return]


def named(tone: NDArray[np.float64]) -> int:
    """The place in GROUNDS of the name that fits a tone [3] best."""
    if tone.min() >= WHITE:
        return 0
    names = list(GROUNDS)
    tones = [*((name, GROUNDS[name]) for name in names[1:]), *PURE.items()]
    return names.index(min(tones, key=lambda known: float(np.square(tone - known[1]).sum()))[0])


def layout_of(strange: NDArray[np.bool_]) -> int:
    """The place in LAYOUTS of the one into whose windows all that is strange [SIDE, SIDE] fits; 0 if into none."""
    return next((place for place, layout in enumerate(LAYOUTS) if place and fits(strange, layout)), 0)


def fits(strange: NDArray[np.bool_], layout: Layout) -> bool:
    """Whether every window is filled, and hardly anything is strange outside of them."""
    outside = strange.copy()
    for left, top, right, bottom in layout.windows:
        window = np.s_[round(top * SIDE) : round(bottom * SIDE), round(left * SIDE) : round(right * SIDE)]
        if strange[window].mean() < FILLED:
            return False
        outside[window] = False
    return bool(outside.mean() < BEYOND) and (len(layout.windows) < 2 or parted(strange))


def parted(strange: NDArray[np.bool_]) -> bool:
    """Whether a line through the middle, across or down, hardly meets anything: two things, not one that is slim."""
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    return bool(min(strange[middle].mean(), strange[:, middle].mean()) < PARTED)


def glance(picture: Picture, box: Box, tone: NDArray[np.float64]) -> Picture:
    """What a box of a picture shows, its ground made white."""
    height, width = picture.shape[:2]
    whole = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    size = max(1, round(whole[2] - whole[0])), max(1, round(whole[3] - whole[1]))
    part = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, box=whole)).astype(np.int16)
    cover = np.clip(apart(part, tone) / COVERING, 0, 1)[..., None]
    return np.clip(part + (1 - cover) * (255 - tone), 0, 255).round().astype(np.uint8)
