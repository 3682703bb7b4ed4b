"""Many draws at once: for a matrix of logits what `sampling.decide` and `sampling.border_distance` find row by row.

A step of many replies draws for all that may say the same, and a verification redoes a thousand draws after one forward
pass; row by row that would take longer than the pass. Knows no model, no grammar and no modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sampling import (
    FORCED_MARGIN,
    Decision,
    border_of,
    decide,
    gumbel_of,
    noise_bits,
    noise_key,
    noise_keys,
    scores_of,
    unit,
)
from .values import Sampling

Places = NDArray[np.intp]
Reals = NDArray[np.float64]
_NEAR = 1e-9
"""Rivals are sought by a rounded bound first; this much more lets none slip through."""


@dataclass(frozen=True, slots=True)
class Redrawn:
    """Of each row: the drawn id, its log-probability as `Decision` has it, and the lesser of the draw's margin and its
    border distance."""

    tokens: NDArray[np.int64]
    logprobs: Reals
    margins: Reals


def decide_rows(
    logits: NDArray[np.float32],
    ids: NDArray[np.int64],
    sampling: Sampling,
    draws: Sequence[tuple[int, int]],
    repeated: NDArray[np.bool_] | None = None,
) -> list[Decision]:
    """For each row of `logits` [rows, n], of seed and step `draws[r]`, what `decide` finds, bit for bit."""
    if min(logits.shape) == 1:
        held: list[NDArray[np.bool_] | None] = [None] * len(logits) if repeated is None else list(repeated)
        return [decide(logits[row], ids, sampling, *draws[row], held[row]) for row in range(len(logits))]
    raw = logits.astype(np.float64)
    scores = scores_of(raw, sampling, repeated)
    if sampling.temperature:
        keys = np.array([noise_key(seed, step) for seed, step in draws])
        winners, margins = _among(scores, ids, keys, _borders(scores, sampling))
    else:
        winners, margins = _best(scores)
    logprobs = _logprobs(raw, winners)
    found = zip(ids[winners].tolist(), logprobs.tolist(), np.minimum(margins, FORCED_MARGIN).tolist(), strict=True)
    return [Decision(*drawn) for drawn in found]


def redraw(
    logits: NDArray[np.float32],
    ids: NDArray[np.int64],
    sampling: Sampling,
    seed: int,
    steps: Sequence[int],
    repeated: NDArray[np.bool_] | None = None,
) -> Redrawn:
    """Draw one of `ids` [n] by each row of `logits` [rows, n], row r at step `steps[r]`.

    repeated: [rows, n], true for ids that the open span held already at that row.
    """
    rows = len(logits)
    if logits.shape[1] == 1:
        return Redrawn(ids.repeat(rows), np.zeros(rows), np.full(rows, FORCED_MARGIN))
    raw = logits.astype(np.float64)
    scores = scores_of(raw, sampling, repeated)
    if sampling.temperature:
        winners, margins = _drawn(scores, ids, sampling, noise_keys(seed, steps))
    else:
        winners, margins = _best(scores)
    return Redrawn(ids[winners], _logprobs(raw, winners), np.minimum(margins, FORCED_MARGIN))


def _logprobs(raw: Reals, winners: Places) -> Reals:
    """Of each row the log-probability of its winner; `raw` is used up."""
    chosen = raw[np.arange(len(raw)), winners]
    top = raw.max(axis=1)
    raw -= top[:, None]
    mass = np.exp(raw, out=raw).sum(axis=1)
    found: Reals = chosen - (top + np.log(mass))
    return found


def _among(
    scores: Reals, ids: NDArray[np.int64], keys: NDArray[np.uint64], borders: Reals | None
) -> tuple[Places, Reals]:
    """Winner and margin of each row among its candidates alone; `scores` stay."""
    if borders is None:
        return _best(scores + gumbel_of(unit(noise_bits(keys[:, None], ids))))
    row, column = _where(scores >= borders[:, None])
    winners, _, margins = _best_of(scores[row, column] + gumbel_of(unit(noise_bits(keys[row], ids[column]))), row)
    return column[winners], margins


def _drawn(scores: Reals, ids: NDArray[np.int64], sampling: Sampling, keys: NDArray[np.uint64]) -> tuple[Places, Reals]:
    """Winner and margin of each row, the border of its candidates considered."""
    borders = _borders(scores, sampling)
    if borders is None:
        return _best(scores + gumbel_of(unit(noise_bits(keys[:, None], ids))))
    row, column = _where(scores >= borders[:, None])
    inside = scores[row, column]
    noisy = inside + gumbel_of(unit(noise_bits(keys[row], ids[column])))
    winners, best, margins = _best_of(noisy, row)
    scores[row, column] = -np.inf
    margins = np.minimum(margins, inside[winners] - scores.max(axis=1))
    return column[winners], np.minimum(margins, _rivals(scores, ids, keys, borders, best, margins))


def _where(mask: NDArray[np.bool_]) -> tuple[Places, Places]:
    """Rows and columns of what is true, row after row."""
    flat = np.flatnonzero(mask)
    rows = flat // mask.shape[1]
    return rows, flat - rows * mask.shape[1]


def _best_of(noisy: Reals, row: Places) -> tuple[Places, Reals, Reals]:
    """Of each run of equal `row`: where its first largest score is, that score, and by how much; `noisy` is used up."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    best: Reals = np.maximum.reduceat(noisy, starts)
    ties = np.flatnonzero(noisy == best[row])
    winners = ties[np.diff(row[ties], prepend=-1) > 0]
    noisy[winners] = -np.inf
    return winners, best, best - np.maximum.reduceat(noisy, starts)


def _best(noisy: Reals) -> tuple[Places, Reals]:
    """The first column with the largest score of each row, and by how much; `noisy` is used up."""
    everywhere = np.arange(len(noisy))
    winners = noisy.argmax(axis=1)
    best = noisy[everywhere, winners]
    noisy[everywhere, winners] = -np.inf
    return winners, best - noisy.max(axis=1)


def _borders(scores: Reals, sampling: Sampling) -> Reals | None:
    """Of each row the least score that stays a candidate; None where all do."""
    least = scores.shape[1] - sampling.top_k
    limited = 0 < least < scores.shape[1]
    if sampling.top_p >= 1.0:
        return np.partition(scores, least, axis=1)[:, least] if limited else None
    kept = np.partition(scores, least, axis=1)[:, least:] if limited else scores
    kept = np.sort(kept, axis=1)[:, ::-1]
    mass = np.exp(kept - kept[:, :1])
    before = np.cumsum(mass, axis=1) - mass
    count = (before < sampling.top_p * mass.sum(axis=1, keepdims=True)).sum(axis=1)
    borders: Reals = kept[np.arange(len(kept)), np.maximum(count, 1) - 1]
    if limited:
        # Equal scores at the border of top-k stay together: more candidates than were sorted here.
        for row in ((scores >= kept[:, -1:]).sum(axis=1) > sampling.top_k).nonzero()[0]:
            borders[row] = border_of(scores[row], sampling)
    return borders


def _rivals(
    outside: Reals, ids: NDArray[np.int64], keys: NDArray[np.uint64], borders: Reals, best: Reals, margins: Reals
) -> Reals:
    """Of each row, how far below the border the nearest id lies that would have won; infinite where none would.

    outside: scores, -inf for candidates. Only ids nearer than the margin that is known already are looked at.
    """
    found = np.full(len(outside), np.inf)
    row, column = _where(outside > (borders - margins)[:, None])
    bits = noise_bits(keys[row], ids[column])
    # Below the border only noise above the gap from border to winner wins: this bound spares most of the logarithms.
    enough = np.maximum(np.exp(-np.exp(borders - best)) - _NEAR, 0.0) * 2.0**52
    likely = np.flatnonzero(bits >= enough.astype(np.uint64)[row])
    row, column, bits = row[likely], column[likely], bits[likely]
    below = outside[row, column]
    wins = below + gumbel_of(unit(bits)) > best[row]
    np.minimum.at(found, row[wins], borders[row[wins]] - below[wins])
    return found
