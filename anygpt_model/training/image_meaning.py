"""What the pocket's pictures mean, from their words: latent semantic coordinates, and two codes for each thing.

Knows no pixel and no network.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SEMANTIC = 56
"""Latent semantic coordinates in which families are found."""


def components(points: NDArray[np.float32], fit: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """The first principal components of points [N, D], found on the rows `fit`, as coordinates [N, count]."""
    centred = points - points[fit].mean(0)
    _, axes = np.linalg.eigh(centred[fit].T @ centred[fit])
    return centred @ axes[:, ::-1][:, :count]  # type: ignore[no-any-return]


def meanings(rows: list[dict[str, Any]], fit: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Latent semantic coordinates [N, SEMANTIC] of what pictures show; alike for all styles of a thing."""
    bags = [words(row) for row in rows]
    vocabulary = {word: i for i, word in enumerate(sorted({word for bag in bags for word in bag}))}
    table = np.zeros((len(rows), len(vocabulary)), np.float32)
    for i, bag in enumerate(bags):
        for word in bag:
            table[i, vocabulary[word]] += 1
    table = table[:, (table[fit] > 0).sum(0) >= 8]
    table *= np.log(len(rows) / (table > 0).sum(0))
    table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-6
    return components(table, fit, SEMANTIC)


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


def named(
    meaning: Tensor, family_codes: int, member_codes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes for things of these meanings [T, D]: family and member [T, 2], no two alike; and the centres of both.

    A member's code is that of what sets it apart from its family, if none of the family that it fits better has it."""
    families = clustered(meaning, family_codes, generator)
    family = torch.cdist(meaning, families).argmin(1)
    apart = meaning - families[family]
    members = clustered(apart, member_codes, generator)
    distance = torch.cdist(apart, members)
    member = torch.full_like(family, -1)
    taken: set[tuple[int, int]] = set()
    for place in distance.flatten().argsort().tolist():
        thing, code = divmod(place, member_codes)
        if member[thing] < 0 and (int(family[thing]), code) not in taken:
            member[thing] = code
            taken.add((int(family[thing]), code))
    if bool((member < 0).any()):
        raise ValueError(f"A family has more than {member_codes} members; give the kind MEMBER more codes.")
    return torch.stack([family, member], 1), families, members
