"""What a direction is to the evaluation: held-out cases, a prompt each, and outside judges of what comes back.

The same judges see four answers to each case: the model's, the real one (the ceiling), the real one after a round trip
through our codec, and the model's answer to another case (chance). Knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...values import Modality
from ..judges.bounds import Score
from ..language_texts import PHRASINGS

Array = NDArray[Any]
Made = str | Array | None
"""A text, a picture (uint8 [height, width, 3]), a sound (float32 [samples] at the codec's rate), or nothing."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a user sends: a text, a picture or a sound (`modality` says which), and the modality that is to come back.

    media: the picture (uint8 [height, width, 3]) or sound (float32 [samples] at the codec's rate). earlier: what the
    user sent before in the same conversation, and the model answered. voice: a sound whose voice is to be used.
    codec_alone: the language model isn't asked; all levels of the codec make the sound again.
    """

    to: Modality
    text: str = ""
    media: Array | None = None
    modality: Modality = Modality.TEXT
    earlier: Prompt | None = None
    voice: Array | None = None
    codec_alone: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out item. id: what its place in the split was hashed from. truth: what a judge compares with."""

    id: str
    prompt: Prompt
    truth: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a judge. lower: smaller is better (an error rate)."""

    name: str
    judge: str
    lower: bool = False


RoundTrip = Callable[[Modality, Array], Array]
"""Encode and decode one picture or sound with our codec."""


class Direction(Protocol):
    """One row group of the table."""

    @property
    def name(self) -> str:
        """As the table shows it: "text → image"."""
        ...

    @property
    def measures(self) -> Sequence[Measure]:
        """What `judge` returns, in its order."""
        ...

    def cases(self, limit: int) -> list[Case]:
        """The first `limit` held-out cases in an order that is frozen by hash."""
        ...

    def judge(self, made: Sequence[Made], cases: Sequence[Case]) -> list[Score]:
        """One score a measure, of `made[i]` as the answer to `cases[i]`; nothing made is the worst answer."""
        ...

    def real(self, cases: Sequence[Case], through: RoundTrip | None) -> list[Made] | None:
        """The best answers there are: real data, or what an outside listener makes of it; sent through our codec first
        if `through` is given. None where that means nothing."""
        ...


def frozen_order(ids: Sequence[str]) -> list[str]:
    """`ids` shuffled by their own sha256: the same on every machine, whatever else is in the list."""
    return sorted(ids, key=lambda id: hashlib.sha256(f"case:{id}".encode()).digest())


def digest(cases: Sequence[Case]) -> str:
    """A short name for exactly these cases, so that two tables can be seen to speak of the same."""
    return hashlib.sha256("\n".join(case.id for case in cases).encode()).hexdigest()[:12]


def asked(source: Modality, to: Modality, filling: str = "") -> str:
    """How a user asks for a direction: its first phrasing, the blank filled."""
    return PHRASINGS[source, to][0].format(x=filling)


def samples(sound: Made, rate: int, wanted: int) -> NDArray[np.float32]:
    """float32 [samples] of a made sound at `wanted` samples a second; nothing made is a second of silence."""
    if sound is None or isinstance(sound, str) or not len(sound):
        return np.zeros(wanted, np.float32)
    if rate == wanted:
        return np.asarray(sound, np.float32)
    import soxr

    return np.asarray(soxr.resample(np.asarray(sound, np.float32), rate, wanted), np.float32)
