"""Scenes in words: what stands where on which ground, how that is said and asked for, and which scenes are held out.

Two things have hardly ever been seen together, and so few of all scenes are ever drawn in training that nearly each is
new; those whose two things, or whose thing and ground, are held out are never drawn at all. Knows no pixel and no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..codecs.scene import GROUNDS, LAYOUTS
from .image_data import share

NAMES = tuple(GROUNDS)
PLAIN, WHOLE = NAMES[0], LAYOUTS[0].name
"""The ground and the layout of which nothing is said."""
PLACED = {"whole": ("{x}",), "left": ("{x} on the left", "{x} on the left side")}
PLACED |= {"right": ("{x} on the right", "{x} on the right side"), "top": ("{x} at the top", "{x} in the upper half")}
PLACED |= {"bottom": ("{x} at the bottom", "{x} in the lower half")}
PLACED |= {"beside": ("{x} to the left of {y}", "{y} to the right of {x}", "{x} and {y}", "{x} next to {y}")}
PLACED |= {"above": ("{x} above {y}", "{y} below {x}", "{y} under {x}", "{x} over {y}")}
"""How the layouts are said; the first way is the one in which scenes are described."""
ON_GROUND = "{scene} on {a} {ground} background"
GROUND_CHANGED = (
    "Now put it on {a} {ground} background.",
    "make the background {ground}",
    "Make the background {ground}.",
    "the same on {ground}, please",
)
MOVED = {
    "whole": ("Make it as large as the picture.", "draw it large"),
    "left": ("Move it to the left.", "put it on the left"),
    "right": ("Move it to the right.", "put it on the right"),
    "top": ("Move it to the top.", "put it at the top"),
    "bottom": ("Move it to the bottom.", "put it at the bottom"),
}
JOINED = {
    "beside": ("Put {y} to the right of it.", "add {y} on the right"),
    "above": ("Put {y} below it.", "add {y} under it"),
}
"""What is asked of a picture that has just been drawn; of each the first way is the one that evaluation uses."""
HELD_OUT = 0.05


@dataclass(frozen=True, slots=True)
class Scene:
    """things: concept ids and phrases of one or two things; style: of all; ground, layout: names."""

    things: tuple[tuple[str, str], ...]
    style: str
    ground: str = PLAIN
    layout: str = WHOLE

    @property
    def held_out(self) -> bool:
        """Whether training must never show it: by its two things, or by a thing and the ground."""
        ids = sorted(id for id, _ in self.things)
        pairs = [":".join(ids)] if len(ids) > 1 else []
        pairs += [f"{id}:{self.ground}" for id in ids if self.ground != PLAIN]
        return any(share(f"scene:{pair}") < HELD_OUT for pair in pairs)


def captions(scene: Scene) -> tuple[str, ...]:
    """Ways to say a scene without its style; the first is the one in which it is described."""
    names = dict(zip("xy", (phrase for _, phrase in scene.things), strict=False))
    said = [way.format(**names) for way in PLACED[scene.layout]]
    if scene.ground == PLAIN:
        return tuple(said)
    return tuple(ON_GROUND.format(scene=each, a=article(scene.ground), ground=scene.ground) for each in said)


def styled(caption: str, style: str) -> tuple[str, str]:
    """A scene's caption with its style, in two ways."""
    return f"a {style} picture of {caption}", f"{caption} in {style} style"


def article(ground: str) -> str:
    """What stands before the name of a ground."""
    return "an" if re.match("[aeiou]", ground) else "a"


def on_ground(scene: Scene, ground: str) -> tuple[Scene, tuple[str, ...]]:
    """The scene on another ground, and ways to ask for that."""
    asked = tuple(each.format(a=article(ground), ground=ground) for each in GROUND_CHANGED)
    return replace(scene, ground=ground), asked


def moved(scene: Scene, layout: str) -> tuple[Scene, tuple[str, ...]]:
    """The scene of one thing with that in another place, and ways to ask for that."""
    return replace(scene, layout=layout), MOVED[layout]


def joined(scene: Scene, other: tuple[str, str], layout: str) -> tuple[Scene, tuple[str, ...]]:
    """The scene of one thing with another in a layout of two, and ways to ask for that."""
    asked = tuple(each.format(y=other[1]) for each in JOINED[layout])
    return replace(scene, things=(scene.things[0], other), layout=layout), asked
