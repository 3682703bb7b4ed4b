"""Numbers with their doubt: a share with Wilson's bound, a ratio or a mean with a bootstrap bound, both at 95 %.

Knows no judge and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z = 1.959964
"""Standard deviations of a normal that hold 95 %."""


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value between its 95 % bounds, over `n` items."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%}–{self.high:.1%})"


def share(hits: Sequence[bool]) -> Score:
    """The share of `hits` that are true, with Wilson's bound (honest near 0 and 1, and for small n)."""
    n = len(hits)
    if n == 0:
        return Score(0.0, 0.0, 1.0, 0)
    value = sum(hits) / n
    middle = (value + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z * sqrt(value * (1 - value) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return Score(value, max(0.0, middle - reach), min(1.0, middle + reach), n)


def ratio(numerators: Sequence[float], denominators: Sequence[float], rounds: int = 2000) -> Score:
    """sum(numerators) / sum(denominators), its bound by drawing the items again `rounds` times from a fixed seed."""
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(top)
    if n == 0 or not bottom.sum():
        return Score(0.0, 0.0, 1.0, n)
    drawn = np.random.default_rng(0).integers(0, n, (rounds, n))
    below = bottom[drawn].sum(1)
    redone = top[drawn].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(redone, [0.025, 0.975])
    return Score(float(top.sum() / bottom.sum()), float(low), float(high), n)


def mean(values: Sequence[float], rounds: int = 2000) -> Score:
    """The mean of `values` with a bootstrap bound."""
    return ratio(values, [1.0] * len(values), rounds)
