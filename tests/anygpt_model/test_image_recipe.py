"""What the picture recipe writes down without training: phrases, the split, codes, the eye, the memory, the latents."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anyloom.anygpt_model.codecs.scene import GROUNDS, LAYOUTS, composed
from anyloom.anygpt_model.codecs.seed import load_seed
from anyloom.anygpt_model.codecs.start import Start, patched, unpatched
from anyloom.anygpt_model.codecs.stem import Stem
from anyloom.anygpt_model.training.image_data import STYLES, captions, phrase, split
from anyloom.anygpt_model.training.image_hands import plain
from anyloom.anygpt_model.training.image_latents import CENTRE, SCALE, autoencoder, halved
from anyloom.anygpt_model.training.image_meaning import SEMANTIC, clustered, components, named
from anyloom.anygpt_model.training.image_memory import remembered
from anyloom.anygpt_model.training.image_teacher import (
    CODED_LOOKS,
    KINDS,
    TELLING,
    THING,
    Teaching,
    by_heart,
    drawing_codes,
    likeness,
    look_axes,
    look_codes,
    placed,
    scene_codes,
    scene_of,
    small,
    stand_ins,
    thing_codes,
)
from anyloom.anygpt_model.training.seed_shape import TOLD, WIDTHS
from anyloom.anygpt_model.training.seed_stem_trainer import Learner, folded
from anyloom.anygpt_model.training.seed_trainer import export
from anyloom.anygpt_model.training.seed_writer import discriminants, normalised, written


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("red apple", "a red apple"),
        ("orange", "an orange"),
        ("unicorn", "a unicorn"),
        ("one o’clock", "a one o'clock"),
        ("grapes", "grapes"),
        ("bus", "a bus"),
        ("sushi", "sushi"),
        ("Virgo", "Virgo"),
        ("men wrestling", "men wrestling"),
        ("man: red hair", "a man with red hair"),
        ("person: bald", "a bald person"),
        ("keycap: 4", "the keycap 4"),
    ],
)
def test_labels_become_phrases(label: str, expected: str) -> None:
    assert phrase(label) == expected


def test_captions_name_the_style_except_the_first() -> None:
    said = captions("a red apple", "3D")
    assert said[0] == "a red apple"
    assert all("3D" in caption for caption in said[1:])
    assert captions("grapes", "flat")[3] == "flat grapes"


def test_the_split_is_frozen() -> None:
    ids = [f"{code:x}" for code in range(0x1F300, 0x1F300 + 2000)]
    held = [split(i, "3D") for i in ids]
    assert 0.03 < held.count("concept") / len(ids) < 0.07
    assert 0.03 < held.count("pair") / len(ids) < 0.07
    whole = [i for i in ids if split(i, "flat") == "concept"]
    assert whole == [i for i in ids if split(i, "simple") == "concept"]
    assert whole[:2] == ["1f30c", "1f311"]


def test_components_and_clusters_recover_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(400, 1)) * 5 * np.eye(6)[2] + 0.01 * rng.normal(size=(400, 6))).astype(np.float32)
    first = components(points, np.ones(400, bool), 1)[:, 0]
    assert abs(np.corrcoef(first, points[:, 2])[0, 1]) > 0.999
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    cloud = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(1))
    found = clustered(cloud, 8, torch.Generator().manual_seed(0))
    assert torch.cdist(centres, found).min(1).values.max() < 0.2


def test_names_of_sets_become_plain() -> None:
    assert plain("Red Apple") == plain("red-apple-2") == "redapple"
    assert plain("keycap: 2") != plain("keycap: 3")


def test_no_two_things_share_their_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(600, SEMANTIC, generator=generator)
    meaning[300:] = meaning[:300]  # twins in meaning
    codes, families, members = named(meaning, 224, 64, generator)
    assert len({tuple(each) for each in codes.tolist()}) == 600
    assert torch.equal(codes[:, 0], torch.cdist(meaning, families).argmin(1))
    assert members.shape == (64, SEMANTIC)
    with pytest.raises(ValueError, match="more than 64 members"):
        named(torch.zeros(600, SEMANTIC), 224, 64, generator)


def test_a_style_that_is_not_known_is_told_by_those_that_are() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, noise = torch.randn(40, 1, 6, generator=generator), torch.randn(40, 4, 6, generator=generator)
    points = (shapes + noise * torch.tensor([0.0, 0.05, 3.0, 2.0])[:, None]).flatten(0, 1)
    thing, style = torch.arange(40).repeat_interleave(4), torch.arange(4).repeat(40)
    alike = likeness(points, thing, style)
    assert alike[0].argmax() == 1
    assert alike.diagonal().tolist() == [0.0] * 4
    train = torch.arange(1, 160)  # the first thing's first picture is held out
    known = by_heart(points, (thing, style, train, 40), alike)
    torch.testing.assert_close(known[0, 0], points[1], atol=0.01, rtol=0)
    torch.testing.assert_close(known[1:].flatten(0, 1), points[4:])
    shares = stand_ins(alike, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 4))
    assert shares[0, :, [0, 3]].abs().max() == 0


@pytest.fixture(scope="module")
def world() -> SimpleNamespace:
    """Twelve things, a colour and a place each, in styles with a mark of their own; one pair is held out."""
    generator = torch.Generator().manual_seed(0)
    colours = 0.3 + 0.6 * torch.rand(12, 3, 1, 1, generator=generator)
    thing, style = torch.arange(12).repeat_interleave(4), torch.arange(4).repeat(12)
    pictures = torch.ones(48, 3, 48, 48)
    for row in range(48):
        top, left = 8 * (int(thing[row]) // 4), 10 * (int(thing[row]) % 4)
        pictures[row, :, top : top + 16, left : left + 12] = colours[thing[row]] * (1 - 0.2 * style[row])
        pictures[row, :, 42:, 12 * style[row] : 12 * style[row] + 10] = 0.0
    train = torch.arange(1, 48)
    points = small(pictures)
    axes, middle = look_axes(torch.cat([points[train], torch.rand(200, points.shape[1], generator=generator)]))
    looks = (points - middle) @ axes
    alike = likeness(points - 1, thing, style)
    recalled = by_heart(looks, (thing, style, train, 12), alike)
    codes, families, members = named(torch.randn(300, SEMANTIC, generator=generator), 224, 64, generator)
    codes = codes[:12] + torch.tensor([0, KINDS[0].codes])
    books = [thing_codes(families, KINDS[0]), thing_codes(members, KINDS[1]), placed(torch.eye(len(STYLES)), KINDS[2])]
    books += scene_codes()
    books += look_codes(looks.repeat(30, 1) + torch.randn(1440, CODED_LOOKS, generator=generator), generator)
    teaching = Teaching(
        [str(number) for number in range(12)],
        thing,
        style,
        train,
        torch.cat(books),
        codes,
        drawing_codes(codes[thing], style),
        axes,
        middle,
        recalled,
        alike,
    )
    torch.manual_seed(0)
    seen = (pictures[train, None] + 0.02 * torch.randn(47, 6, 3, 48, 48)).flatten(0, 1)
    rows = train.repeat_interleave(6)
    model = written(teaching, Stem(WIDTHS), seen, thing[rows], style[rows])
    return SimpleNamespace(teaching=teaching, pictures=pictures, looks=looks, model=model)


def test_the_written_eye_gives_known_pictures_exactly_their_drawing_codes(world: SimpleNamespace) -> None:
    codes = world.model.encode(normalised(world.pictures))
    known = world.teaching.train
    assert torch.equal(codes[known, :TELLING], world.teaching.drawing[known, :TELLING])
    assert (codes[known] == world.teaching.drawing[known]).float().mean() > 0.99
    assert torch.equal(codes[0, :THING], world.teaching.codes[0])  # never seen in this style


def test_what_is_written_to_disk_in_16_bits_recognises_alike(world: SimpleNamespace, tmp_path: Path) -> None:
    export(world.model, tmp_path)
    pixels = normalised(world.pictures)
    known = world.teaching.train
    codes = load_seed(tmp_path).encode(pixels)[known]
    assert torch.equal(codes[:, : THING + 1], world.teaching.drawing[known, : THING + 1])


def test_the_written_eye_tells_what_is_different(world: SimpleNamespace) -> None:
    other = world.pictures[5].clone()
    other[:, 30:40, 4:40] = torch.tensor([0.1, 0.3, 0.9])[:, None, None]
    pixels = normalised(other[None])
    recalled = world.model.prototypes(world.model.visual_encoder.patch_embed(pixels))[0, 0, -TOLD:]
    told = world.model.embed(world.model.project(pixels))[0]
    looks = (small(other[None]) - world.teaching.middle) @ world.teaching.axes
    torch.testing.assert_close(told[-CODED_LOOKS:], looks[0] + recalled[:CODED_LOOKS], atol=0.02, rtol=0.01)
    torch.testing.assert_close(told[:-CODED_LOOKS], recalled[CODED_LOOKS:], atol=0.02, rtol=0.01)
    assert told[-CODED_LOOKS:].norm() > 1.0


def test_the_written_hand_tells_what_the_codes_hold(world: SimpleNamespace) -> None:
    codes = world.model.encode(normalised(torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(1))))
    vectors = world.teaching.codebook[codes]
    widths = [kind.width for kind in KINDS for _ in range(kind.groups)]
    held = torch.cat([vectors[:, place, :width] for place, width in enumerate(widths)], 1)
    torch.testing.assert_close(world.model.decode(codes), held, atol=0.01, rtol=0.002)


@pytest.fixture(scope="module")
def memory(world: SimpleNamespace) -> SimpleNamespace:
    """Latents of the world's pictures, alike in all styles, with what they cover, and what is remembered of them."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 1, 3, 2, 2, generator=generator).expand(-1, 4, -1, -1, -1).flatten(0, 1)
    covers = torch.rand(12, 1, 1, 2, 2, generator=generator).expand(-1, 4, -1, -1, -1).flatten(0, 1)
    covered = torch.cat([latents, covers], 1).repeat(1, 1, 8, 8)
    train = world.teaching.train
    return SimpleNamespace(covered=covered, start=Start(remembered(world.teaching, covered[train], world.looks[train])))


def test_the_memory_recalls_what_it_was_given_and_blends_what_it_was_not(
    world: SimpleNamespace, memory: SimpleNamespace
) -> None:
    latents = memory.covered[:, :-1]
    embeddings = world.model.decode(world.teaching.drawing)
    drawn = torch.cat([memory.start.guess(each, (1, *latents.shape[1:])) for each in embeddings])
    torch.testing.assert_close(drawn, latents, atol=0.05, rtol=0.02)
    different = embeddings[7].clone()
    different[-CODED_LOOKS:] += 1.0
    assert (memory.start.guess(different, (1, *latents.shape[1:])) - drawn[7]).abs().max() > 0.01


@pytest.mark.parametrize("place", range(len(LAYOUTS)))
def test_a_scene_is_composed_of_what_is_remembered_of_its_things(
    world: SimpleNamespace, memory: SimpleNamespace, place: int
) -> None:
    ground, layout, (first, second) = 5, LAYOUTS[place], (8, 20)
    paired = len(layout.windows) > 1
    codes = scene_of(world.teaching.drawing[first], ground, place, world.teaching.drawing[second] if paired else None)
    drawn = memory.start.guess(world.model.decode(codes[None])[0], (1, 3, 16, 16))[0]
    white = torch.full((3,), SCALE * CENTRE)
    tone = white + 2 * SCALE * (torch.tensor(list(GROUNDS.values())[ground]) / 255 - 1)
    expected = composed([memory.covered[first], memory.covered[second]], layout, white, tone)
    torch.testing.assert_close(drawn, expected, atol=0.08, rtol=0.02)
    assert bool(torch.allclose(drawn[:, 0, 0], tone, atol=0.02)) == bool(place)


def test_patches_are_put_back_where_they_were() -> None:
    latents = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatched(patched(latents, 8)[0], (1, 3, 16, 24)), latents)


def test_discriminants_find_what_tells_groups_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    names = torch.arange(3).repeat(100)
    points = torch.randn(300, 5, generator=generator) * torch.tensor([9.0, 9.0, 1.0, 9.0, 9.0])
    points[:, 2] += 2.0 * names
    axis = discriminants(points, names, 1, ridge=0.0)[:, 0]
    assert axis.abs().argmax() == 2
    within = (points @ axis)[names == 0]
    assert 0.8 < within.std() < 1.2


def test_folding_keeps_what_the_stem_finds() -> None:
    torch.manual_seed(0)
    learner = Learner(7)
    pixels = torch.rand(16, 3, 48, 48)
    for _ in range(3):
        learner.train()(pixels)
    learner.eval()
    before = learner.stem.convolved(4 * pixels - 2)
    after = folded(learner.stem).convolved(normalised(pixels))
    # Only the colour of the padding differs, which reaches the border.
    torch.testing.assert_close(after[:, :, 1:2, 1:2], before[:, :, 1:2, 1:2], atol=0.15, rtol=0.1)


def test_pictures_are_latents_at_half_of_what_is_drawn() -> None:
    white = halved(np.full((2, 96, 96, 3), 255, np.uint8))
    assert white.shape == (2, 3, 64, 64)
    torch.testing.assert_close(white, torch.full_like(white, SCALE * CENTRE))


@pytest.mark.parametrize("half", [False, True])
def test_latents_are_the_picture_at_half_size_and_back_is_interpolation(half: bool) -> None:
    vae = autoencoder()
    if half:
        vae = vae.half().float()
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    small[:, :, [0, -1]] = small[:, :, :, [0, -1]] = 1.0
    pictures = F.interpolate(small, scale_factor=8)
    halved = F.avg_pool2d(pictures, 2)
    latents = SCALE * vae.encode(2 * pictures - 1).latent_dist.mean
    torch.testing.assert_close(latents, SCALE * (2 * halved - 2 + CENTRE), atol=2e-3, rtol=0)
    doubled = F.interpolate(halved, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(vae.decode(latents / SCALE).sample / 2 + 0.5, doubled, atol=2e-3, rtol=0)
