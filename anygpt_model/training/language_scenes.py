"""Exchanges about scenes, composed of the codes of pictures of single things: drawn, described, changed.

What a scene looks like in codes follows from its parts, so there are as many as one likes and none is ever rendered.
Knows what the image tokenizer's trainer wrote, no network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs.scene import LAYOUTS
from ..values import Modality, Part
from ..vocabulary import Vocabulary
from . import language_texts as texts
from . import scenes
from .image_teacher import scene_of
from .language_media import Codes, Row, Turn, code_part, text_part
from .scenes import Scene

SINGLE = [layout.name for layout in LAYOUTS if len(layout.windows) == 1]
PAIRED = [layout.name for layout in LAYOUTS if len(layout.windows) == 2]
COLOURED = 0.6
"""Share of scenes on another ground than white."""
TWO = 0.7
"""Share of scenes with two things."""
ALONE = 0.6
"""Share of the pictures to change that show one thing on white."""
CHANGES = {"ground": 0.4, "place": 0.25, "second thing": 0.35}
"""What is changed, and how often."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene and the pictures that it is made of."""

    scene: Scene
    rows: tuple[tuple[Row, Codes], ...]


class Scenes:
    """Draws such exchanges from pictures and their codes. seen: for a row, the codes that it is looked at with."""

    def __init__(
        self,
        pictures: Sequence[tuple[Row, Codes]],
        seen: Callable[[Row, Codes], Codes],
        vocabulary: Vocabulary,
        rng: random.Random,
    ) -> None:
        self._pictures, self._seen, self._vocabulary, self._rng = pictures, seen, vocabulary, rng
        self._of_style: dict[str, list[tuple[Row, Codes]]] = {}
        for each in pictures:
            self._of_style.setdefault(each[0]["style"], []).append(each)

    def drawn(self) -> list[Turn]:
        """A scene that is asked for."""
        return [self._drawn(self._shown())]

    def described(self) -> list[Turn]:
        """A scene that is looked at."""
        shown = self._shown()
        asked = self._rng.choice(texts.first_often(texts.DESCRIBE))
        said = scenes.captions(shown.scene)[0]
        if asked.lower().startswith("describe"):
            said = scenes.styled(said, shown.scene.style)[0]
        codes = self._composed(shown.scene, [self._seen(*each) for each in shown.rows])
        return [((codes, text_part(asked)), (text_part(said),))]

    def changed(self) -> list[Turn]:
        """A picture that is asked for, and then changed by words that only refer to it."""
        while True:
            first = self._shown(paired=False, plain=self._rng.random() < ALONE)
            second, asked = self._change(first)
            if not second.scene.held_out and second.scene != first.scene:
                return [self._drawn(first), ((text_part(self._rng.choice(asked)),), (self._picture(second),))]

    def _change(self, first: Shown) -> tuple[Shown, tuple[str, ...]]:
        (what,) = self._rng.choices(list(CHANGES), list(CHANGES.values()))
        if what == "ground":
            scene, asked = scenes.on_ground(first.scene, self._rng.choice(scenes.NAMES))
            return Shown(scene, first.rows), asked
        if what == "place":
            scene, asked = scenes.moved(first.scene, self._rng.choice(SINGLE))
            return Shown(scene, first.rows), asked
        other = self._rng.choice(self._of_style[first.scene.style])
        scene, asked = scenes.joined(first.scene, named(other[0]), self._rng.choice(PAIRED))
        return Shown(scene, (*first.rows, other)), asked

    def _shown(self, paired: bool | None = None, plain: bool = False) -> Shown:
        """A scene that may be trained on."""
        while True:
            rows = [self._rng.choice(self._pictures)]
            style = rows[0][0]["style"]
            two = self._rng.random() < TWO if paired is None else paired
            if two:
                rows.append(self._rng.choice(self._of_style[style]))
            ground = self._rng.choice(scenes.NAMES[1:]) if self._rng.random() < COLOURED else scenes.PLAIN
            layout = self._rng.choice(PAIRED if two else SINGLE)
            scene = Scene(tuple(named(row) for row, _ in rows), style, ground, layout)
            if plain:
                scene = Scene(scene.things, style)
            if not scene.held_out:
                return Shown(scene, tuple(rows))

    def _drawn(self, shown: Shown) -> Turn:
        said = self._rng.choice(scenes.captions(shown.scene))
        said = self._rng.choice((said, *scenes.styled(said, shown.scene.style)))
        asked = self._rng.choice(texts.first_often(texts.DRAW)).format(x=said)
        return (text_part(asked),), (self._picture(shown),)

    def _picture(self, shown: Shown) -> Part:
        return self._composed(shown.scene, [codes for _, codes in shown.rows])

    def _composed(self, scene: Scene, codes: Sequence[Codes]) -> Part:
        return code_part(Modality.IMAGE, composed(scene, [each[0] for each in codes])[None], self._vocabulary)


def named(row: Row) -> tuple[str, str]:
    """A picture's thing as scenes have it."""
    return row["concept"], row["phrase"]


def composed(scene: Scene, codes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Codes [32] of a scene from those of its things' pictures [32] each."""
    first, *others = (torch.from_numpy(each) for each in codes)
    layout = [each.name for each in LAYOUTS].index(scene.layout)
    return scene_of(first, scenes.NAMES.index(scene.ground), layout, *others).numpy()
