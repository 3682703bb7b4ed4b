"""Scenes drawn, changed and described: combinations that training never saw, of things that it knows.

What is drawn is judged where it was asked for: the rim's colour tells the ground, and each window of the layout is
looked up by itself. So a thing in another place, or of the other's place, is not found.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ...codecs.gaze import glance
from ...codecs.scene import GROUNDS, LAYOUTS, Layout, composed
from ...values import Modality
from .. import image_data, scenes
from ..image_latents import SIZE
from ..judges import eye
from ..judges.bounds import Score, share
from ..language_scenes import COLOURED, PAIRED, SINGLE, TWO
from ..scenes import Scene
from .direction import Array, Case, Made, Measure, Prompt, RoundTrip, asked
from .pictures import PictureWorld, TextToImage, shown

FOUND = 5
"""A thing is found if fewer of the gallery resemble the picture more."""
RIM = 2
WORDS = {"beside": " to the left of ", "above": " above ", "left": " on the left", "right": " on the right"}
WORDS |= {"top": " at the top", "bottom": " at the bottom"}
"""By which words of a description its layout is known; none: the whole."""


class SceneWorld:
    """The pictures of known things, and held-out scenes of them in a frozen order."""

    def __init__(self, pictures: PictureWorld) -> None:
        self.pictures = pictures

    @cached_property
    def _alpha(self) -> Array:
        alpha: Array = image_data.load(self.pictures.work)[1]
        return alpha

    @cached_property
    def _things(self) -> list[tuple[str, str]]:
        """Things that training saw in every style."""
        rows = self.pictures.rows
        known = [thing for thing in self.pictures.whole if all(row["split"] == "train" for row in rows[thing].values())]
        return [(thing, self.pictures.phrase(thing)) for thing in known]

    def scenes(self, limit: int) -> list[Scene]:
        """The first `limit` held-out scenes."""
        found: list[Scene] = []
        number = 0
        while len(found) < limit:
            # Seeded by its number: the same on every machine, and more cases only add to fewer.
            scene = self._scene(random.Random(f"scene {number}"))
            number += 1
            if scene.held_out:
                found.append(scene)
        return found

    def _scene(self, rng: random.Random) -> Scene:
        two = rng.random() < TWO
        things = rng.sample(self._things, 1 + two)
        ground = rng.choice(scenes.NAMES[1:]) if rng.random() < COLOURED else scenes.PLAIN
        return Scene(tuple(things), rng.choice(image_data.STYLES), ground, rng.choice(PAIRED if two else SINGLE))

    def picture(self, scene: Scene) -> Array:
        """A scene composed of the real pictures, uint8 [SIZE, SIZE, 3]."""
        things = [self._thing(thing, scene.style) for thing, _ in scene.things]
        tone = torch.tensor(GROUNDS[scene.ground]) / 255
        made = composed(things, layout_of(scene), torch.ones(3), tone)
        picture: Array = (made.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
        return picture

    def _thing(self, thing: str, style: str) -> torch.Tensor:
        row = self.pictures.rows[thing][style]["row"]
        whole = np.concatenate([self.pictures.pictures[row], self._alpha[row][..., None]], axis=-1)
        flat = torch.from_numpy(whole).permute(2, 0, 1)[None].float() / 255
        return torch.nn.functional.interpolate(flat, (SIZE, SIZE), mode="bicubic", antialias=True)[0].clamp(0, 1)


def layout_of(scene: Scene) -> Layout:
    """The layout that a scene names."""
    return next(layout for layout in LAYOUTS if layout.name == scene.layout)


def ground_of(picture: Array) -> str:
    """The ground whose tone lies nearest to the middle colour of a picture's rim."""
    inner = np.ones(picture.shape[:2], bool)
    inner[RIM:-RIM, RIM:-RIM] = False
    tone = np.median(picture[inner], axis=0)
    return min(GROUNDS, key=lambda name: float(np.square(tone - GROUNDS[name]).sum()))


class TextToScene(TextToImage):
    """A scene asked for in words."""

    name = "text → scene"
    measures = (
        Measure("thing in its place, R@5 of 400", eye.NAME),
        Measure("ground of 11", "the rim's colour"),
        Measure("whole scene right", f"{eye.NAME}, rim"),
    )

    def __init__(self, world: SceneWorld) -> None:
        super().__init__(world.pictures)
        self.name = type(self).name
        self._scenes = world

    def cases(self, limit: int) -> list[Case]:
        """Captions of held-out scenes that name the style."""
        return [
            Case(described(scene), Prompt(Modality.IMAGE, asked_for(scene)), {"scene": scene})
            for scene in self._scenes.scenes(limit)
        ]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Shares of things found where they should be, of right grounds, and of scenes right in both."""
        wanted = [case.truth["scene"] for case in cases]
        pictures = [shown(picture) for picture in made]
        looked_at = [
            (number, thing, scene.style, glance(picture, box, np.array(GROUNDS[scene.ground], float)))
            for number, (picture, scene) in enumerate(zip(pictures, wanted, strict=True))
            for box, (thing, _) in zip(layout_of(scene).windows, scene.things, strict=True)
        ]
        numbers, things, styles, glances = (list(column) for column in zip(*looked_at, strict=True))
        found = [rank < FOUND for rank in self._ranks(glances, things, styles)]
        grounds = [ground_of(picture) == scene.ground for picture, scene in zip(pictures, wanted, strict=True)]
        missed = {number for number, there in zip(numbers, found, strict=True) if not there}
        whole = [ground and number not in missed for number, ground in enumerate(grounds)]
        return [share(found), share(grounds), share(whole)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made]:
        """The scenes composed of the real pictures."""
        pictures = [self._scenes.picture(case.truth["scene"]) for case in cases]
        return [through(Modality.IMAGE, picture) if through else picture for picture in pictures]


class SceneChanged(TextToScene):
    """A second turn that only refers to the first: a thing alone on white is drawn, then its ground is to be another,
    or another thing is to stand beside or below it."""

    name = "drawn, then “put … on a … background / beside it”"

    def cases(self, limit: int) -> list[Case]:
        """Held-out scenes that one change makes of one thing on white."""
        found = []
        for scene in self._scenes.scenes(12 * limit):
            alone = Scene(scene.things[:1], scene.style)
            if len(scene.things) > 1 and scene.ground == scenes.PLAIN:
                changed, ways = scenes.joined(alone, scene.things[1], scene.layout)
            elif scene.layout == scenes.WHOLE:
                changed, ways = scenes.on_ground(alone, scene.ground)
            else:
                continue
            prompt = Prompt(Modality.IMAGE, ways[0], earlier=Prompt(Modality.IMAGE, asked_for(alone)))
            found.append(Case(f"{described(changed)} again", prompt, {"scene": changed}))
        return found[:limit]


class SceneToText:
    """What the model says of a scene: does it name each thing, the layout and the ground."""

    name = "scene → text"
    measures = (
        Measure("thing named", "exact words"),
        Measure("layout of 7 named", "exact words"),
        Measure("ground of 11 named", "exact words"),
        Measure("whole scene right", "exact words"),
    )

    def __init__(self, world: SceneWorld) -> None:
        self._scenes = world

    def cases(self, limit: int) -> list[Case]:
        """Held-out scenes composed of real pictures."""
        ask = asked(Modality.IMAGE, Modality.TEXT)
        return [
            Case(
                described(scene),
                Prompt(Modality.TEXT, ask, self._scenes.picture(scene), Modality.IMAGE),
                {"scene": scene},
            )
            for scene in self._scenes.scenes(limit)
        ]

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """Shares of things, layouts, grounds and whole scenes that are named as they are."""
        things, layouts, grounds, whole = [], [], [], []
        for text, case in zip(made, cases, strict=True):
            scene, said = case.truth["scene"], text if isinstance(text, str) else ""
            named = [bool(re.search(rf"\b{re.escape(phrase)}\b", said)) for _, phrase in scene.things]
            place, ground = layout_said(said) == scene.layout and bool(said), ground_said(said) == scene.ground
            things += named
            layouts.append(place)
            grounds.append(ground and bool(said))
            whole.append(said.strip() == scenes.captions(scene)[0])
        return [share(things), share(layouts), share(grounds), share(whole)]

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made] | None:
        """The true descriptions; a text has no codec."""
        return None if through else [scenes.captions(case.truth["scene"])[0] for case in cases]


def layout_said(text: str) -> str:
    """The layout that a description names."""
    return next((name for name, words in WORDS.items() if words in text), scenes.WHOLE)


def ground_said(text: str) -> str:
    """The ground that a description names; white where it names none."""
    named = re.search(r" on an? (\w+) background", text)
    return named[1] if named else scenes.PLAIN


def described(scene: Scene) -> str:
    """A scene in words, its style too: what tells it from others."""
    return scenes.styled(scenes.captions(scene)[0], scene.style)[0]


def asked_for(scene: Scene) -> str:
    """How a user asks for a scene."""
    return asked(Modality.TEXT, Modality.IMAGE, described(scene))
