"""The teacher of the pocket's image tokenizer, in closed form, where the published one had CLIP.

Of 32 codes the first two say which thing a picture shows: its family (clusters of latent semantic coordinates of tags,
label and kind) and its place in the family, so that no two known things share both. The third is the style. Four make
a scene of it: the ground's colour, the layout, and the two codes of a second thing. The other 25 tell, from coarse to
fine, how the picture differs from what is known by heart of that thing in that style (principal components of 24 x 24
pixels). Whoever draws from words can't know how one picture looks, so these codes say "no difference" then: all that a
language model has to learn is which thing has which two codes, and which words make which scene.

Everything is fitted on pictures that may be trained on. Knows no network.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..codecs.scene import GROUNDS, LAYOUTS
from .image_data import STYLES, load
from .image_loop import command
from .image_meaning import clustered, meanings, named

log = logging.getLogger(__name__)

MEANING = 24
"""Numbers of a code's vector that tell its meaning."""
CODE_DIM = 32
APART = 4.0
"""How far the kinds of groups lie apart in the codebook, so that a vector finds its own kind."""
LIKENESS = 4.0
"""How much rather the style that is most like a missing one stands in for it."""
SEEN, SIDE = 48, 24
"""Pixels a side that the eye sees, and at which looks are told."""


@dataclass(frozen=True)
class Kind:
    """Groups of one kind: how many of how many numbers, and the codes they share. `mark` is their own coordinate."""

    groups: int
    width: int
    codes: int
    mark: int


FAMILY, MEMBER, STYLE = Kind(1, MEANING, 224, 26), Kind(1, MEANING, 64, 27), Kind(1, len(STYLES), len(STYLES), 28)
GROUND, LAYOUT = Kind(1, 3, len(GROUNDS), 24), Kind(1, len(LAYOUTS) - 1, len(LAYOUTS), 25)
SECOND = Kind(2, MEANING, 0, LAYOUT.mark)
"""Of the second thing, in the first's codes; where there is none, the layout's first code, whose vector is zero."""
SCENE = (GROUND, LAYOUT, SECOND)
LOOKS = (Kind(9, 2, 238, 29), Kind(10, 4, 238, 30), Kind(6, 6, 238, 31))
KINDS = (FAMILY, MEMBER, STYLE, *SCENE, *LOOKS)
CODED_LOOKS = sum(kind.groups * kind.width for kind in LOOKS)
THING = FAMILY.groups + MEMBER.groups
"""Codes that say which thing it is; the style's follows."""
TELLING = THING + STYLE.groups + sum(kind.groups for kind in SCENE)
"""Codes before those of looks: which thing it is, in which style, and the scene."""
FEATURES = sum(kind.groups * kind.width for kind in KINDS)
"""Numbers of an image embedding: what the codes' vectors hold, one after another."""


@dataclass(frozen=True)
class Teaching:
    """What the tokenizer is to know. N pictures, T known things (those that have a picture to train on).

    things: names; thing: number of each picture's thing [N], -1 if unknown; style: [N]; train: rows to learn from.
    codebook: [1024, CODE_DIM]; codes: of each known thing [T, THING]; drawing: codes to draw each picture with [N, 32].
    axes, middle: the looks of pixels x [3 * SIDE * SIDE] in 0..1 are (x - middle) @ axes, each of deviation 1.
    recalled: looks of each thing in each style that are known by heart [T, styles, CODED_LOOKS].
    alike: how much pictures of the second style tell of the first [styles, styles].
    """

    things: list[str]
    thing: Tensor
    style: Tensor
    train: Tensor
    codebook: Tensor
    codes: Tensor
    drawing: Tensor
    axes: Tensor
    middle: Tensor
    recalled: Tensor
    alike: Tensor


def placed(points: Tensor, kind: Kind) -> Tensor:
    """Points [..., width] as codebook vectors [..., CODE_DIM] of their kind."""
    whole = F.pad(points, (0, CODE_DIM - kind.width))
    whole[..., kind.mark] = APART
    return whole


def as_taken(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures [N, H, W, 3] as the codec hands them to the tokenizer, in 0..1: [N, 3, SEEN, SEEN]."""
    squares = [Image.fromarray(each).resize((SEEN, SEEN), Image.Resampling.BICUBIC) for each in pictures]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2).float() / 255


def small(taken: Tensor) -> Tensor:
    """Pictures [N, 3, SEEN, SEEN] at half size as points [N, 3 * SIDE * SIDE], channel by channel."""
    return F.avg_pool2d(taken, 2).flatten(1)


def look_axes(points: Tensor) -> tuple[Tensor, Tensor]:
    """The first CODED_LOOKS principal axes of points [N, D], scaled so that coordinates have deviation 1 on average
    of a group: [D, CODED_LOOKS]; and the points' middle [D]."""
    middle = points.mean(0)
    centred = points - middle
    spread, axes = torch.linalg.eigh(centred.T @ centred / len(points))
    axes = axes.flip(1)[:, :CODED_LOOKS]
    deviation = spread.flip(0)[:CODED_LOOKS].sqrt()
    scales, start = torch.empty(CODED_LOOKS), 0
    for kind in LOOKS:
        for _ in range(kind.groups):
            scales[start : start + kind.width] = deviation[start : start + kind.width].square().mean().sqrt()
            start += kind.width
    return axes / scales, middle


def likeness(points: Tensor, thing: Tensor, style: Tensor) -> Tensor:
    """How much of a picture in one style those of the same thing in each other style tell, [styles, styles]: the shares
    of a least-squares guess. points: [N, D] of training pictures; their things and styles [N]."""
    place = torch.full((int(thing.max()) + 1, len(STYLES)), -1, dtype=torch.long)
    place[thing, style] = torch.arange(len(thing))
    whole = points[place[(place >= 0).all(1)]]
    table = torch.zeros(len(STYLES), len(STYLES))
    for wanted in range(len(STYLES)):
        others = [each for each in range(len(STYLES)) if each != wanted]
        inputs = whole[:, others].transpose(1, 2).flatten(0, 1)
        shares = torch.linalg.lstsq(inputs, whole[:, wanted].flatten()[:, None]).solution[:, 0].clamp(min=0.01)
        table[wanted, others] = shares / shares.sum()
    return table


def stand_ins(alike: Tensor, there: Tensor) -> Tensor:
    """For each thing and style the shares of the pictures that are known, [T, styles, styles]; there: which are
    [T, styles]. A picture that is there stands for itself alone."""
    whole = torch.eye(len(STYLES)) * 1e9 + alike.clamp(min=1e-6) ** LIKENESS
    shares = whole * there[:, None, :]
    return shares / shares.sum(-1, keepdim=True)


def by_heart(points: Tensor, teaching: tuple[Tensor, Tensor, Tensor, int], alike: Tensor) -> Tensor:
    """What is known of each thing in each style, [T, styles, D]: its picture, or a blend of those in other styles.

    points: [N, D] of all pictures; teaching: thing [N], style [N], train [n] and the number of things."""
    thing, style, train, count = teaching
    kept = torch.zeros(count, len(STYLES), points.shape[1])
    there = torch.zeros(count, len(STYLES))
    kept[thing[train], style[train]] = points[train]
    there[thing[train], style[train]] = 1.0
    return stand_ins(alike, there) @ kept


def differences(looks: Tensor, recalled: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """How pictures may differ from what is recalled [n, CODED_LOOKS]: from the same thing in other styles, from other
    things. looks: of pictures [n, W]; known: their things [n]."""
    style = torch.randint(len(STYLES), (len(looks),), generator=generator)
    other = torch.randint(len(recalled), (len(looks),), generator=generator)
    return torch.cat([looks - recalled[known, style], looks - recalled[other, style]])


def look_codes(found: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The codes' vectors [codes, CODE_DIM] of each of LOOKS, from differences [n, CODED_LOOKS]; the first of each is
    "no difference"."""
    books, start = [], 0
    for kind in LOOKS:
        part = found[:, start : start + kind.groups * kind.width].reshape(-1, kind.width)
        centres = clustered(part[torch.randperm(len(part), generator=generator)[:40_000]], kind.codes, generator)
        centres[0] = 0.0
        books.append(placed(centres, kind))
        start += kind.groups * kind.width
    return books


def thing_codes(centres: Tensor, kind: Kind) -> Tensor:
    """Centres [codes, D] as codebook vectors: their first components, of deviation 1."""
    centred = centres - centres.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    points = centred @ axes.flip(1)[:, : kind.width]
    return placed(points / points.std(), kind)


def scene_codes() -> list[Tensor]:
    """The codes' vectors of GROUND and LAYOUT. White and the whole are zero, so that they are what is not told."""
    tones = torch.tensor(list(GROUNDS.values())) / 255.0
    layouts = F.pad(torch.eye(len(LAYOUTS) - 1), (0, 0, 1, 0))
    return [placed(tones - tones[0], GROUND), placed(layouts, LAYOUT)]


def first_of_kind(kind: Kind) -> int:
    """The first code of a kind."""
    return sum(each.codes for each in KINDS[: KINDS.index(kind)])


def numbers_before(kind: Kind) -> int:
    """Where in an image embedding the numbers of a kind begin."""
    return sum(each.groups * each.width for each in KINDS[: KINDS.index(kind)])


def drawing_codes(codes: Tensor, style: Tensor) -> Tensor:
    """Codes [N, 32] to draw with, of a thing's codes [N, THING] and styles [N]: alone on white, and no difference from
    what is known."""
    nothing = first_of_kind(LAYOUT)
    still = [first_of_kind(kind) for kind in LOOKS for _ in range(kind.groups)]
    rest = torch.tensor([first_of_kind(GROUND), nothing, *[nothing] * SECOND.groups, *still])
    return torch.cat([codes, first_of_kind(STYLE) + style[:, None], rest.expand(len(codes), -1)], dim=1)


def scene_of(codes: Tensor, ground: int, layout: int, second: Tensor | None = None) -> Tensor:
    """Codes [32] of a picture as a scene: on another ground, in another place, with the thing of other codes [32]."""
    told = codes.clone()
    at = THING + STYLE.groups
    told[at], told[at + 1] = first_of_kind(GROUND) + ground, first_of_kind(LAYOUT) + layout
    told[at + 2 : at + 4] = first_of_kind(LAYOUT) if second is None else second[:THING]
    return told


def teach(work: Path, seed: int = 0) -> Teaching:
    """Teaching for the pictures of stage "data": computed once, in a minute on one core, then read.

    It is clustered, and another machine's rounding clusters a quarter of the things otherwise: a tokenizer that was
    begun here goes on with the same one.
    """
    pictures, _, rows = load(work)
    kept = work / "image" / "teaching.pt"
    about = [seed, hashlib.sha256((work / "image" / "images.json").read_bytes()).hexdigest()]
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        if found.pop("about") == about:
            return Teaching(**found)
    teaching = taught(pictures, rows, seed)
    fresh = kept.with_suffix(".part")
    torch.save({"about": about, **{each.name: getattr(teaching, each.name) for each in fields(teaching)}}, fresh)
    fresh.replace(kept)
    return teaching


def taught(pictures: NDArray[np.uint8], rows: list[dict[str, Any]], seed: int) -> Teaching:
    """Teaching for pictures [N, H, W, 3] and what is known of each, computed anew."""
    generator = torch.Generator().manual_seed(seed)
    fit = np.array([row["split"] == "train" for row in rows])
    train = torch.from_numpy(fit).nonzero()[:, 0]
    numbers = {row["concept"]: 0 for row in rows if row["split"] == "train"}
    numbers = {name: number for number, name in enumerate(numbers)}
    thing = torch.tensor([numbers.get(row["concept"], -1) for row in rows])
    style = torch.tensor([STYLES.index(row["style"]) for row in rows])
    meaning = torch.from_numpy(meanings(rows, fit))
    first = torch.tensor([int((thing[train] == number).nonzero()[0, 0]) for number in range(len(numbers))])
    of_things = meaning[train[first]]
    codes, families, members = named(of_things, FAMILY.codes, MEMBER.codes, generator)
    points = small(as_taken(pictures))
    axes, middle = look_axes(points[train])
    looks = (points - middle) @ axes
    alike = likeness(points[train] - 1, thing[train], style[train])
    recalled = by_heart(looks, (thing, style, train, len(numbers)), alike)
    books = [thing_codes(families, FAMILY), thing_codes(members, MEMBER), placed(torch.eye(len(STYLES)), STYLE)]
    books += scene_codes()
    books += look_codes(differences(looks[train], recalled, thing[train], generator), generator)
    codes[:, 1] += first_of_kind(MEMBER)
    # Whoever draws a thing that nobody knows draws the known one that means most nearly the same.
    like = torch.where(thing >= 0, thing, torch.cdist(meaning, of_things).argmin(1))
    drawing = drawing_codes(codes[like], style)
    return Teaching(list(numbers), thing, style, train, torch.cat(books), codes, drawing, axes, middle, recalled, alike)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Compute the teaching and say what its codes are like; takes a minute whatever `minutes` says."""
    teaching = teach(work, seed)
    sizes = torch.bincount(teaching.codes[:, 0])
    log.info(
        "%d things in %d families, at most %d in one", len(teaching.things), int((sizes > 0).sum()), int(sizes.max())
    )
    log.info("likeness of styles:\n%s", teaching.alike.numpy().round(2))
    start = 0
    for kind in (each for each in KINDS if each.codes):
        book = teaching.codebook[start : start + kind.codes, : kind.width]
        gaps = torch.cdist(book, book) + 1e9 * torch.eye(len(book))
        log.info("%d groups of %d codes, nearest two %.3f apart", kind.groups, kind.codes, float(gaps.min()))
        start += kind.codes


if __name__ == "__main__":
    command(run, minutes=1)
