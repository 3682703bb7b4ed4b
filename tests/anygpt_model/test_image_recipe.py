"""What the picture recipe computes without training: phrases, the split, the teacher's codebook, the linear latents."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anyloom.anygpt_model.training.image_data import captions, phrase, split
from anyloom.anygpt_model.training.image_latents import CENTRE, SCALE, autoencoder, latents_of
from anyloom.anygpt_model.training.image_teacher import (
    CODED_LOOKS,
    KINDS,
    clustered,
    codebook,
    components,
    nearest,
    sources,
)
from anyloom.anygpt_model.training.seed_hand_trainer import THING, mistaken, sibling_of
from anyloom.anygpt_model.training.unclip_trainer import linear_start


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


def test_each_kind_of_code_stays_within_its_own_part_of_the_codebook() -> None:
    generator = torch.Generator().manual_seed(0)
    widths = [KINDS[0].groups * KINDS[0].width, KINDS[1].width, CODED_LOOKS + 40]
    points = sources(*(torch.randn(600, width, generator=generator) for width in widths))
    books = codebook(points, torch.ones(600, dtype=torch.bool), generator)
    codes = nearest(points, books)
    vectors, book = torch.cat(points, 1), torch.cat(books)
    assert (vectors.shape, codes.shape, book.shape) == ((600, 32, 32), (600, 32), (1024, 32))
    assert torch.equal(torch.cdist(vectors.flatten(0, 1), book).argmin(1), codes.flatten())
    start = column = 0
    for kind in KINDS:
        own = codes[:, column : column + kind.groups]
        assert start <= own.min()
        assert own.max() < start + kind.codes
        start, column = start + kind.codes, column + kind.groups


@pytest.mark.parametrize("half", [False, True])
def test_latents_are_the_picture_at_half_size_and_back_is_interpolation(half: bool) -> None:
    vae = autoencoder()
    if half:
        vae = vae.half().float()
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    small[:, :, [0, -1]] = small[:, :, :, [0, -1]] = 1.0
    pictures = F.interpolate(small, scale_factor=8)
    halved = F.avg_pool2d(pictures, 2)
    latents = latents_of(vae, pictures)
    torch.testing.assert_close(latents, SCALE * (2 * halved - 2 + CENTRE), atol=2e-3, rtol=0)
    doubled = F.interpolate(halved, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(vae.decode(latents / SCALE).sample / 2 + 0.5, doubled, atol=2e-3, rtol=0)


def test_mistakes_spare_the_thing_more_than_its_looks() -> None:
    torch.manual_seed(0)
    codes, siblings, others = (torch.full((4000, 32), number) for number in (0, 1, 2))
    wrong = (mistaken(codes, siblings, others) != 0).float()
    assert 0.3 < wrong[:, THING + 1 :].mean() < 0.4
    assert 0.06 < wrong[:, :THING].mean() < 0.11
    assert 0.28 < (wrong.sum(1) == 0).float().mean() < 0.5


def test_a_sibling_is_the_same_thing_in_another_picture() -> None:
    concepts = ["a", "b", "a", "a", "c"]
    found = sibling_of(concepts, torch.tensor([0, 1, 2, 3]), torch.Generator().manual_seed(0))
    assert {concepts[row] for row in found[[0, 2, 3]].tolist()} == {"a"}
    assert all(found[row] != row for row in (0, 2, 3))
    assert found[1] == 1
    assert found[4] == 4


def test_a_linear_start_finds_linear_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, truth = torch.randn(500, 5, generator=generator), torch.randn(12, 5, generator=generator)
    start = linear_start(embeddings, (embeddings @ truth.T + 1).reshape(500, 3, 2, 2))
    torch.testing.assert_close(start["weight"], truth, atol=0.05, rtol=0)
    torch.testing.assert_close(start["bias"], torch.ones(12), atol=0.05, rtol=0)
