"""The pocket's eye takes scenes apart: every ground and layout is found again, and no other picture is touched."""

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.codecs.gaze import PURE, SIDE, layout_of, look
from anyloom.anygpt_model.codecs.scene import GROUNDS, LAYOUTS, composed

WHITE = torch.ones(3)


def disc(colour: tuple[float, float, float], side: int = 96) -> torch.Tensor:
    """A disc that nearly fills its square, on white, with what it covers: [4, side, side]."""
    across = (torch.arange(side) + 0.5) / side - 0.5
    inside = (across[:, None].square() + across.square() < 0.23).float()
    shade = 0.7 + 0.3 * across[:, None].expand(side, side)
    colours = torch.stack([inside * shade * c + 1 - inside for c in colour])
    return torch.cat([colours, inside[None]])


RED, TEAL = disc((0.9, 0.1, 0.1)), disc((0.05, 0.45, 0.5))


def as_picture(colours: torch.Tensor) -> np.ndarray:
    return (colours.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()


def scene(ground: str, place: int) -> np.ndarray:
    return as_picture(composed([RED, TEAL], LAYOUTS[place], WHITE, torch.tensor(GROUNDS[ground]) / 255))


@pytest.mark.parametrize("place", range(len(LAYOUTS)))
@pytest.mark.parametrize("ground", GROUNDS)
def test_ground_and_layout_are_found_again(ground: str, place: int) -> None:
    seen = look(scene(ground, place))
    assert (list(GROUNDS)[seen.ground], LAYOUTS[seen.layout].name) == (ground, LAYOUTS[place].name)
    assert len(seen.glances) == len(LAYOUTS[place].windows)


def test_each_glance_shows_its_thing_on_white() -> None:
    first, second = look(scene("blue", 5)).glances
    for glance, thing in ((first, RED), (second, TEAL)):
        side = len(glance)
        whole = torch.nn.functional.interpolate(thing[None, :3], (side, side), mode="bicubic", antialias=True)[0]
        assert np.abs(glance.astype(int) - as_picture(whole)).mean() < 8
        assert glance[0, 0].min() > 250


def test_one_thing_on_white_is_looked_at_as_it_is() -> None:
    picture = as_picture(RED[:3])
    seen = look(picture)
    assert (seen.ground, seen.layout) == (0, 0)
    assert seen.glances[0] is picture


@pytest.mark.parametrize("kind", ["noise", "tile", "slope"])
def test_a_picture_without_an_even_ground_is_looked_at_as_a_whole(kind: str) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)
    if kind == "tile":  # an icon with round corners on white
        picture = np.full((96, 96, 3), (40, 90, 220), np.uint8)
        for corner in (np.s_[:4, :4], np.s_[:4, -4:], np.s_[-4:, :4], np.s_[-4:, -4:]):
            picture[corner] = 255
    if kind == "slope":
        picture = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[:, None, None], 96, 1).repeat(3, 2)
    seen = look(picture)
    assert (seen.ground, seen.layout) == (0, 0)
    assert seen.glances[0] is picture


@pytest.mark.parametrize("name", PURE)
def test_strong_colours_are_called_like_pale_ones(name: str) -> None:
    picture = as_picture(composed([TEAL if name == "red" else RED], LAYOUTS[0], WHITE, torch.tensor(PURE[name]) / 255))
    assert list(GROUNDS)[look(picture).ground] == name


def test_one_slim_thing_is_not_two() -> None:
    strange = np.zeros((SIDE, SIDE), bool)
    strange[2:-2, 25:39] = True
    assert layout_of(strange) == 0
    strange[SIDE // 2 - 1 : SIDE // 2 + 1] = False
    assert LAYOUTS[layout_of(strange)].name == "above"


def test_other_shapes_and_sizes_are_taken() -> None:
    wide = scene("green", 1).repeat(3, 1)
    seen = look(wide)
    assert (list(GROUNDS)[seen.ground], LAYOUTS[seen.layout].name) == ("green", "left")
    assert look(np.zeros((1, 1, 3), np.uint8)).layout == 0
    assert look(np.full((7, 5, 3), 255, np.uint8)).glances[0].shape == (7, 5, 3)
