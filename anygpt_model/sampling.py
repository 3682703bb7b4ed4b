"""Drawing one id from the logits of the legal ones, so that the draw can be redone exactly.

Gumbel-max: the id with the largest logit/temperature + noise is a sample of the softmax, and the noise is a pure
function of (seed, step, token id), computed by integer mixing and two float64 logarithms on the CPU whatever device the
model runs on and whatever else is in the batch. Knows no model, no grammar and no modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .values import Sampling

FORCED_MARGIN = 1e9
"""The margin of a choice that had no alternative; finite, so that every store can keep it."""
_GOLDEN = 0x9E3779B97F4A7C15
_STEP = 0xD1B54A32D192ED03
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Decision:
    """One drawn id. logprob: natural log under the legal distribution at temperature 1, before any penalty.

    margin: its score after noise minus the best other candidate's.
    """

    token: int
    logprob: float
    margin: float


def _mix(value: int) -> int:
    """splitmix64's finaliser on one 64-bit integer."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def noise_key(seed: int, step: int) -> np.uint64:
    """What seed and step contribute to the noise of every id."""
    return np.uint64(_mix(_mix(seed + _GOLDEN) + step * _STEP))


def noise_keys(seed: int, steps: Sequence[int]) -> NDArray[np.uint64]:
    """`noise_key` of each of `steps` [n]."""
    key = np.uint64(_mix(seed + _GOLDEN))
    return _mixed(np.asarray(steps, np.uint64) * np.uint64(_STEP) + key)


def noise_bits(key: np.uint64 | NDArray[np.uint64], ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """52 random bits for each of `ids`, by their `noise_key` or keys of a shape that broadcasts with theirs."""
    mixed = _mixed(ids.astype(np.uint64) * np.uint64(_GOLDEN) + key)
    mixed >>= np.uint64(12)
    return mixed


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`_mix` of each of `values`, in their place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """`noise_bits` as numbers strictly between 0 and 1."""
    # Half a step more: the largest is still below 1 in float64, the smallest above 0.
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def uniforms(seed: int, step: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers strictly between 0 and 1, one for each of `ids` [n]; equal arguments give equal bits everywhere."""
    return unit(noise_bits(noise_key(seed, step), ids))


def gumbel(seed: int, step: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise for each of `ids` [n] at one step of one seed."""
    return gumbel_of(uniforms(seed, step, ids))


def gumbel_of(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard Gumbel noise of numbers strictly between 0 and 1."""
    noise: NDArray[np.float64] = -np.log(-np.log(numbers))
    return noise


def decide(
    logits: NDArray[np.float32],
    ids: NDArray[np.int64],
    sampling: Sampling,
    seed: int,
    step: int,
    repeated: NDArray[np.bool_] | None = None,
) -> Decision:
    """Draw one of `ids` [n] by `logits` [n] (the legal ones only).

    repeated: [n], true for ids that the open span holds already: the repetition penalty applies to those. Temperature 0
    takes the largest logit, the first of equals.
    """
    if len(logits) == 1:
        return Decision(int(ids[0]), 0.0, FORCED_MARGIN)
    raw = logits.astype(np.float64)
    scores = scores_of(raw, sampling, repeated)
    inside: NDArray[np.int64] | None = None
    if sampling.temperature:
        border = border_of(scores, sampling)
        if border is not None:
            inside = (scores >= border).nonzero()[0]
            scores = scores[inside]
        scores = scores + gumbel(seed, step, ids if inside is None else ids[inside])
    winner = int(scores.argmax())
    best = float(scores[winner])
    scores[winner] = -np.inf
    margin = min(best - float(scores.max()), FORCED_MARGIN)
    chosen = winner if inside is None else int(inside[winner])
    return Decision(int(ids[chosen]), float(raw[chosen]) - _logsumexp(raw), margin)


def border_distance(
    logits: NDArray[np.float32],
    ids: NDArray[np.int64],
    sampling: Sampling,
    seed: int,
    step: int,
    repeated: NDArray[np.bool_] | None = None,
) -> float:
    """How near the border of the candidates (top-k, top-p) came to deciding the choice, in the scale of margins.

    The least distance that the chosen id is inside it, or that an id which would have won is outside it. Together with
    the margin it says how much the logits could drift without another choice. Arguments as `decide` takes them.
    """
    if len(logits) == 1 or not sampling.temperature:
        return FORCED_MARGIN
    scores = scores_of(logits.astype(np.float64), sampling, repeated)
    border = border_of(scores, sampling)
    if border is None or not (scores < border).any():
        return FORCED_MARGIN
    outside = (scores < border).nonzero()[0]
    noisy = scores + gumbel(seed, step, ids)
    chosen = int(np.where(scores >= border, noisy, -np.inf).argmax())
    distance = float(scores[chosen] - scores[outside].max())
    rivals = outside[noisy[outside] > noisy[chosen]]
    return min(distance, float(border - scores[rivals].max())) if len(rivals) else distance


def scores_of(raw: NDArray[np.float64], sampling: Sampling, repeated: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Logits after the repetition penalty and the temperature; a new array."""
    if sampling.repetition_penalty != 1.0 and repeated is not None:
        weaker = np.where(raw < 0, raw * sampling.repetition_penalty, raw / sampling.repetition_penalty)
        raw = np.where(repeated, weaker, raw)
    return raw / (sampling.temperature or 1.0)


def border_of(scores: NDArray[np.float64], sampling: Sampling) -> float | None:
    """The least score that stays a candidate; None where all do. Equal scores stay or go together."""
    border: float | None = None
    if 0 < (least := len(scores) - sampling.top_k) < len(scores):
        border = float(np.partition(scores, least)[least])
    if sampling.top_p < 1.0:
        kept = np.sort(scores if border is None else scores[scores >= border])[::-1]
        mass = np.exp(kept - kept[0])
        before = np.cumsum(mass) - mass
        inside = max(int(np.searchsorted(before, sampling.top_p * mass.sum(), side="left")), 1)
        border = float(kept[inside - 1])
    return border


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural log-probabilities [n] of `logits` [n]."""
    raw = logits.astype(np.float64)
    return raw - _logsumexp(raw)


def _logsumexp(scores: NDArray[np.float64]) -> float:
    top = scores.max()
    return float(top + np.log(np.exp(scores - top).sum()))
