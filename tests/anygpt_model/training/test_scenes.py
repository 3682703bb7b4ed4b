"""Scenes of the recipe: what is said of them, which are held out, and that codes say what words say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from anyloom.anygpt_model.codecs.scene import GROUNDS, LAYOUTS
from anyloom.anygpt_model.training import scenes
from anyloom.anygpt_model.training.image_teacher import GROUND, LAYOUT, STYLE, TELLING, THING, first_of_kind
from anyloom.anygpt_model.training.language_media import Turn
from anyloom.anygpt_model.training.language_scenes import PAIRED, SINGLE, Scenes, composed
from anyloom.anygpt_model.training.scenes import Scene
from anyloom.anygpt_model.values import Modality, Part

APPLE, DOG, OWL = ("1f34e", "a red apple"), ("1f436", "a dog"), ("1f989", "an owl")
SCENE_AT = THING + STYLE.groups


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (Scene((APPLE,), "flat"), "a red apple"),
        (Scene((APPLE,), "flat", "blue"), "a red apple on a blue background"),
        (Scene((OWL,), "3D", "orange", "top"), "an owl at the top on an orange background"),
        (Scene((APPLE, DOG), "flat", "white", "beside"), "a red apple to the left of a dog"),
        (Scene((DOG, OWL), "flat", "grey", "above"), "a dog above an owl on a grey background"),
    ],
)
def test_a_scene_is_described_in_one_way(scene: Scene, said: str) -> None:
    assert scenes.captions(scene)[0] == said


def test_every_way_to_say_a_scene_names_its_things_and_its_ground() -> None:
    for layout in LAYOUTS:
        scene = Scene((APPLE, DOG)[: len(layout.windows)], "flat", "pink", layout.name)
        for said in scenes.captions(scene):
            assert all(phrase in said for _, phrase in scene.things)
            assert said.endswith("on a pink background")
    assert set(scenes.PLACED) == {layout.name for layout in LAYOUTS}
    assert set(scenes.MOVED) == set(SINGLE)
    assert set(scenes.JOINED) == set(PAIRED)


def test_what_is_held_out_depends_on_the_two_things_or_on_thing_and_ground() -> None:
    things = [(f"{code:x}", "") for code in range(0x1F300, 0x1F300 + 400)]
    pairs = [Scene((first, second), "flat", layout="above") for first, second in pairwise(things)]
    assert 0.02 < sum(pair.held_out for pair in pairs) / len(pairs) < 0.08
    turned = [Scene(pair.things[::-1], "3D", layout="beside") for pair in pairs]
    assert [pair.held_out for pair in pairs] == [pair.held_out for pair in turned]
    grounded = [Scene((thing,), "flat", "blue") for thing in things]
    assert 0.02 < sum(scene.held_out for scene in grounded) / len(grounded) < 0.08
    assert not any(Scene((thing,), "flat").held_out for thing in things)


@pytest.fixture(scope="module")
def drawer() -> Scenes:
    """Scenes of 40 things in two styles, whose first code is their number."""
    rows = []
    for number in range(40):
        for style in ("flat", "3D"):
            codes = np.full((1, 32), 310, np.int64)
            codes[0, :3] = number, 224 + number, 288 + (style == "3D")
            rows.append(({"concept": f"{number:x}", "phrase": f"the thing {number}.", "style": style}, codes))
    return Scenes(rows, lambda row, codes: codes, Plain(), random.Random(3))


class Plain:
    """Spans of codes as they are."""

    def to_span(self, modality: Modality, codes: np.ndarray) -> tuple[int, ...]:
        assert modality == Modality.IMAGE
        return tuple(codes[0].tolist())


def told(part: Part) -> tuple[int, int, int, int | None]:
    """Ground, layout, first and second thing of a picture."""
    codes = part.span
    second = codes[SCENE_AT + 2]
    assert (second == first_of_kind(LAYOUT)) == (codes[SCENE_AT + 3] == first_of_kind(LAYOUT))
    return (
        codes[SCENE_AT] - first_of_kind(GROUND),
        codes[SCENE_AT + 1] - first_of_kind(LAYOUT),
        codes[0],
        None if second == first_of_kind(LAYOUT) else second,
    )


def drawn(drawer: Scenes, kind: str, count: int = 300) -> Iterator[list[Turn]]:
    for _ in range(count):
        yield getattr(drawer, kind)()


def named(words: str) -> list[int]:
    return [int(word.rstrip(".")) for word in words.split() if word.rstrip(".").isdigit()]


def test_what_is_drawn_is_what_was_said(drawer: Scenes) -> None:
    shown = set()
    for (((asked,), (picture,)),) in drawn(drawer, "drawn"):
        ground, layout, first, second = told(picture)
        shown.add(layout)
        assert list(GROUNDS)[ground] in asked.text or not ground
        things = [first] if second is None else [first, second]
        ways = scenes.PLACED[LAYOUTS[layout].name]
        said = [way.format(**dict(zip("xy", (f"the thing {x}." for x in things), strict=False))) for way in ways]
        assert any(way in asked.text for way in said)
    assert shown == set(range(len(LAYOUTS)))


def test_what_is_described_is_what_is_seen(drawer: Scenes) -> None:
    for (((picture, _), (said,)),) in drawn(drawer, "described"):
        ground, _, first, second = told(picture)
        assert named(said.text) == ([first] if second is None else [first, second])
        assert said.text.endswith("background") == bool(ground)
        assert picture.span[TELLING:] == (310,) * (32 - TELLING)


def test_a_change_keeps_what_it_does_not_name(drawer: Scenes) -> None:
    kinds = set()
    for (_, (before,)), ((asked,), (after,)) in drawn(drawer, "changed"):
        old, new = told(before), told(after)
        assert old[2] == new[2]
        assert before.span[:THING] == after.span[:THING]
        changed = [place for place in range(4) if old[place] != new[place]]
        kinds.add(tuple(changed))
        if changed == [0]:
            assert list(GROUNDS)[new[0]] in asked.text
        if 3 in changed:
            assert named(asked.text) == [new[3]]
    assert kinds == {(0,), (1,), (1, 3)}


def test_nothing_held_out_is_drawn(drawer: Scenes) -> None:
    for turns in (*drawn(drawer, "drawn"), *drawn(drawer, "described"), *drawn(drawer, "changed")):
        for request, reply in turns:
            for part in (*request, *reply):
                if part.modality == Modality.IMAGE:
                    ground, layout, first, second = told(part)
                    things = [(f"{thing:x}", "") for thing in (first, second) if thing is not None]
                    assert not Scene(tuple(things), "flat", list(GROUNDS)[ground], LAYOUTS[layout].name).held_out


def test_codes_of_a_scene_keep_how_its_first_thing_looks() -> None:
    first, second = np.arange(32), np.arange(100, 132)
    made = composed(Scene((APPLE, DOG), "flat", "black", "above"), [first, second])
    assert made[:3].tolist() == [0, 1, 2]
    assert made[3:7].tolist() == [first_of_kind(GROUND) + 9, first_of_kind(LAYOUT) + 6, 100, 101]
    assert made[TELLING:].tolist() == list(range(TELLING, 32))
