"""How scenes are judged: each thing in its own window, the ground by the rim, descriptions by their words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from anyloom.anygpt_model.codecs.scene import GROUNDS, LAYOUTS
from anyloom.anygpt_model.training import image_data, scenes
from anyloom.anygpt_model.training.directions import scenes as directions
from anyloom.anygpt_model.training.directions.direction import Case
from anyloom.anygpt_model.training.directions.scenes import (
    SceneChanged,
    SceneToText,
    SceneWorld,
    TextToScene,
    ground_of,
    ground_said,
    layout_said,
)
from anyloom.anygpt_model.training.scenes import Scene

SIDE = image_data.SIZE


def colour(thing: str) -> tuple[int, int, int]:
    """A colour of its own for each thing, far from every ground's."""
    number = int(thing, 16)
    return 250, 10 * (number % 5), 20 * (number // 5)


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    """Sixty things, each a square of its own colour, in every style."""
    rows: dict[str, dict[str, dict[str, object]]] = {}
    pictures = []
    for number in range(60):
        thing = f"{number:x}"
        for style in image_data.STYLES:
            picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
            picture[8:-8, 8:-8] = colour(thing)
            row = {"row": len(pictures), "phrase": f"thing {thing}", "split": "train", "concept": thing}
            rows.setdefault(thing, {})[style] = row
            pictures.append(picture)
    alpha = np.zeros((len(pictures), SIDE, SIDE), np.uint8)
    alpha[:, 8:-8, 8:-8] = 255
    whole = SimpleNamespace(
        work=Path(),
        pictures=np.stack(pictures),
        rows=rows,
        whole=list(rows),
        phrase=lambda thing: f"thing {thing}",
        gallery=lambda things: list(rows),
    )
    found = SceneWorld(whole)  # type: ignore[arg-type]
    found.__dict__["_alpha"] = alpha
    return found


@pytest.fixture
def direction(world: SceneWorld, monkeypatch: pytest.MonkeyPatch) -> TextToScene:
    """A judge whose eye knows things by the colour of their middle."""

    def ranks(self: TextToScene, pictures: Sequence[np.ndarray], things: Sequence[str], _: object) -> list[int]:
        middles = [picture[len(picture) // 2, len(picture) // 2].astype(int) for picture in pictures]
        near = [np.abs(m - colour(t)).max() < 8 for m, t in zip(middles, things, strict=True)]
        return [0 if hit else 50 for hit in near]

    monkeypatch.setattr(directions.TextToScene, "_ranks", ranks)
    return TextToScene(world)


def test_cases_are_held_out_frozen_and_of_every_kind(world: SceneWorld) -> None:
    found = world.scenes(120)
    assert found[:40] == world.scenes(40)
    assert all(scene.held_out for scene in found)
    assert {scene.layout for scene in found} == {layout.name for layout in LAYOUTS}
    assert {scene.ground for scene in found} == set(GROUNDS)
    changed = SceneChanged(world).cases(30)
    assert len(changed) == 30
    assert {"Put" in case.prompt.text for case in changed} == {True, False}
    assert all(case.prompt.earlier and case.prompt.earlier.text.startswith("draw a ") for case in changed)


def test_the_real_scene_is_right_and_another_is_not(direction: TextToScene) -> None:
    cases = direction.cases(30)
    real = direction.real(cases, None)
    assert [score.value for score in direction.judge(real, cases)] == [1.0, 1.0, 1.0]
    things, grounds, whole = (score.value for score in direction.judge([*real[1:], None], cases))
    assert things < 0.2
    assert grounds < 0.5
    assert whole == 0.0


def test_a_thing_in_the_others_place_is_not_found(world: SceneWorld, direction: TextToScene) -> None:
    pairs = [scene for scene in world.scenes(40) if len(scene.things) == 2]
    cases = [Case(str(number), direction.cases(1)[0].prompt, {"scene": scene}) for number, scene in enumerate(pairs)]
    turned = [world.picture(Scene(scene.things[::-1], scene.style, scene.ground, scene.layout)) for scene in pairs]
    things, grounds, whole = (score.value for score in direction.judge(turned, cases))
    assert (things, grounds, whole) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_rim_tells_the_ground(world: SceneWorld, ground: str) -> None:
    assert ground_of(world.picture(Scene((("3", "thing 3"),), "flat", ground, "left"))) == ground


def test_descriptions_are_judged_by_what_they_name(world: SceneWorld) -> None:
    direction = SceneToText(world)
    cases = direction.cases(20)
    said = direction.real(cases, None)
    assert said is not None
    assert [score.value for score in direction.judge(said, cases)] == [1.0] * 4
    assert [score.value for score in direction.judge([None] * 20, cases)] == [0.0] * 4
    scene = Scene((("1", "a cat"), ("2", "a dog")), "flat", "blue", "beside")
    case = Case("", cases[0].prompt, {"scene": scene})
    scores = direction.judge(["a cat above a dog on a red background"], [case])
    assert [score.value for score in scores] == [1.0, 0.0, 0.0, 0.0]
    scores = direction.judge(["a cattle to the left of a dog on a blue background"], [case])
    assert [score.value for score in scores] == [0.5, 1.0, 1.0, 0.0]


def test_every_description_names_its_layout_and_ground() -> None:
    things = (("1", "a cat"), ("2", "a dog"))
    for layout in LAYOUTS:
        for ground in GROUNDS:
            scene = Scene(things[: len(layout.windows)], "flat", ground, layout.name)
            said = scenes.captions(scene)[0]
            assert (layout_said(said), ground_said(said)) == (layout.name, ground)
