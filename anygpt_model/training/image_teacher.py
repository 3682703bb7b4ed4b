"""The teacher of the pocket's image tokenizer, in closed form, where the published one had CLIP.

A picture's teaching is 380 numbers: 56 say what it is (latent semantic analysis of the thing's tags, label and
family), 4 which style it is in, 320 how it looks (principal components of 32 x 32 pixels). The first 252, cut into 32
groups, scaled and clustered, are also the codebook and the codes that the tokenizer is to reach: 7 codes for the thing,
1 for the style, then 24 from coarse to fine. Everything is fitted on pictures that may be trained on; things drawn by
other hands are measured by the same scales. Knows no network.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .image_data import STYLES, load
from .image_hands import load_hands
from .image_loop import command

log = logging.getLogger(__name__)

SIDE = 32
MEANING, LOOKS = 56, 320
FEATURES = MEANING + len(STYLES) + LOOKS
CODED_LOOKS = 192
"""Components of the looks that have codes of their own; the finer ones follow from what the picture is."""
CODE_DIM = 32
APART = 4.0
"""How far the kinds of groups lie apart in the codebook, so that a vector finds its own kind."""


@dataclass(frozen=True)
class Kind:
    """Groups of one kind: how many of how many numbers, and the codes they share. `mark` is their own coordinate."""

    groups: int
    width: int
    codes: int
    mark: int


KINDS = (Kind(7, 8, 252, 28), Kind(1, 4, 4, 29), Kind(8, 4, 256, 30), Kind(8, 8, 256, 31), Kind(8, 12, 256, 27))


@dataclass(frozen=True)
class Teaching:
    """For all N pictures: vectors to reach [N, 32, CODE_DIM], their codes [N, 32], image embeddings [N, FEATURES]; and
    the codebook [1024, CODE_DIM]. train: rows that may be trained on.

    Of the M pictures by other hands there are the vectors to reach, [M, 32, CODE_DIM], but no style's."""

    vectors: Tensor
    codes: Tensor
    embeddings: Tensor
    codebook: Tensor
    train: Tensor
    hands: Tensor


def components(points: NDArray[np.float32], fit: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """The first principal components of points [N, D], found on the rows `fit`, as coordinates [N, count]."""
    centred = points - points[fit].mean(0)
    _, axes = np.linalg.eigh(centred[fit].T @ centred[fit])
    return centred @ axes[:, ::-1][:, :count]  # type: ignore[no-any-return]


def looks(pictures: NDArray[np.uint8], fit: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Principal components [N, LOOKS] of pictures [N, H, W, 3] at SIDE pixels."""
    step = pictures.shape[1] // SIDE
    small = pictures.reshape(len(pictures), SIDE, step, SIDE, step, 3).mean(axis=(2, 4), dtype=np.float32)
    return components(small.reshape(len(pictures), -1) / 255, fit, LOOKS)


def meanings(rows: list[dict[str, Any]], fit: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Latent semantic coordinates [N, MEANING] of what pictures show; alike for all styles of a thing."""
    bags = [words(row) for row in rows]
    vocabulary = {word: i for i, word in enumerate(sorted({word for bag in bags for word in bag}))}
    table = np.zeros((len(rows), len(vocabulary)), np.float32)
    for i, bag in enumerate(bags):
        for word in bag:
            table[i, vocabulary[word]] += 1
    table = table[:, (table[fit] > 0).sum(0) >= 8]
    table *= np.log(len(rows) / (table > 0).sum(0))
    table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-6
    return components(table, fit, MEANING)


def words(row: dict[str, Any]) -> list[str]:
    """What is known of a thing in words; its family counts double."""
    family = [f"#{row['subgroup']}", f"##{row['group']}"]
    return [*row["tags"], *re.findall(r"[a-z]+", row["label"].lower()), *family, *family]


def clustered(points: Tensor, count: int, generator: torch.Generator, rounds: int = 25) -> Tensor:
    """k-means: centres [count, D] of points [N, D]; empty clusters restart at random points."""
    centres = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(points, 8192)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        filled = sizes > 0
        centres[filled] = sums[filled] / sizes[filled, None]
        fresh = torch.randint(len(points), (int((~filled).sum()),), generator=generator)
        centres[~filled] = points[fresh]
    return centres


def placed(points: Tensor, kind: Kind) -> Tensor:
    """Points [..., width] as codebook vectors [..., CODE_DIM] of their kind."""
    whole = F.pad(points, (0, CODE_DIM - kind.width))
    whole[..., kind.mark] = APART
    return whole


def teach(work: Path, seed: int = 0) -> Teaching:
    """Teaching for every picture of stage "data"; a minute on one core, the same whenever the data are the same."""
    pictures, _, rows = load(work)
    others, _, things = load_hands(work)
    fit = np.array([row["split"] == "train" for row in rows])
    style = np.eye(len(STYLES), dtype=np.float32)[[STYLES.index(row["style"]) for row in rows]] - 1 / len(STYLES)
    look_of = torch.from_numpy(looks(np.concatenate([pictures, others]), np.pad(fit, (0, len(others)))))
    parts = [torch.from_numpy(meanings(rows, fit)), torch.from_numpy(style), look_of[: len(rows)]]
    train = torch.from_numpy(fit)
    deviations = [part[train].std(0) for part in parts]
    meaning, manner, look = (part / deviation for part, deviation in zip(parts, deviations, strict=True))
    # Coarse components matter more to the eye: the embedding keeps the square root of their spread.
    weight = (deviations[2] / deviations[2].square().mean().sqrt()).sqrt()
    embeddings = torch.cat([0.7 * meaning, manner, look * weight], dim=1)
    points = sources(meaning, manner, look)
    book = codebook(points, train, torch.Generator().manual_seed(seed))
    by_hands = meaning[torch.from_numpy(things)], torch.zeros(len(others), len(STYLES)), look_of[len(rows) :]
    reached = sources(by_hands[0], by_hands[1], by_hands[2] / deviations[2])
    codes = nearest(points, book)
    return Teaching(
        torch.cat(points, 1), codes, embeddings, torch.cat(book), train.nonzero()[:, 0], torch.cat(reached, 1)
    )


def sources(meaning: Tensor, manner: Tensor, look: Tensor) -> list[Tensor]:
    """Standardised parts [N, ...] as vectors [N, groups, CODE_DIM], one tensor for each of KINDS."""
    widths = [kind.groups * kind.width for kind in KINDS[2:]]
    flat = [meaning, manner, *torch.split(look[:, :CODED_LOOKS], widths, dim=1)]
    return [
        placed(part.reshape(len(part), kind.groups, kind.width), kind) for kind, part in zip(KINDS, flat, strict=True)
    ]


def codebook(points: list[Tensor], train: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The codes' vectors [codes, CODE_DIM] of each of KINDS, clustered from the rows `train`."""
    return [
        clustered(part[train].flatten(0, 1), kind.codes, generator) for kind, part in zip(KINDS, points, strict=True)
    ]


def nearest(points: list[Tensor], books: list[Tensor]) -> Tensor:
    """Codes [N, 32] of points."""
    codes: list[Tensor] = []
    start = 0
    for part, book in zip(points, books, strict=True):
        codes.append(start + torch.cdist(part.flatten(0, 1), book).argmin(1).reshape(part.shape[:2]))
        start += len(book)
    return torch.cat(codes, 1)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Compute the teaching and say how much of it the codes keep; takes a minute whatever `minutes` says."""
    teaching = teach(work, seed)
    kept = teaching.codebook[teaching.codes] - teaching.vectors
    start = 0
    for kind in KINDS:
        part = slice(start, start + kind.groups)
        share = 1 - kept[:, part].square().sum() / teaching.vectors[:, part, : kind.width].square().sum()
        log.info("%d groups of %d numbers, %d codes: %.2f kept", kind.groups, kind.width, kind.codes, float(share))
        start += kind.groups


if __name__ == "__main__":
    command(run, minutes=1)
