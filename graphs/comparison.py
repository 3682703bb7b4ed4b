"""Two turns, or a turn and its replay, side by side: media by content and by distance, texts by words, ids by position.

Knows no model: values and kept bytes in, findings out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import ndiff
from typing import Any

import numpy as np

from ..anygpt_model.errors import StoreError
from ..anygpt_model.media import read_audio, read_image
from ..anygpt_model.values import Media, Modality, Part, Turn
from ..nodes.ports import Blobs


@dataclass(frozen=True)
class MediumCheck:
    """One generated medium and what became of it. identical: pixels or samples are the same.

    distance: the largest difference of a pixel or sample on a scale of 0 to 1 (1 where the sizes differ); None where
    the stored bytes are not there to compare with. present: the stored bytes are there.
    """

    position: int
    modality: str
    stored: Media
    made: Media | None
    identical: bool
    distance: float | None
    present: bool


def compare_media(stored: Turn, again: Turn | None, blobs: Blobs, made: Mapping[str, bytes]) -> tuple[MediumCheck, ...]:
    """A check for each medium of the stored reply, against the medium at the same place of the other's."""
    others = _media(again) if again is not None else []
    checks = []
    for place, (position, part) in enumerate(_media(stored)):
        other = others[place][1].media if place < len(others) else None
        checks.append(_check(position, part, other, blobs, made))
    return tuple(checks)


def _media(turn: Turn) -> list[tuple[int, Part]]:
    return [(position, part) for position, part in enumerate(turn.reply) if part.media is not None]


def _check(position: int, part: Part, made: Media | None, blobs: Blobs, bytes_made: Mapping[str, bytes]) -> MediumCheck:
    if part.media is None:
        raise StoreError(f"Part {position} of the reply has no medium; check the store with `anyloom doctor`.")
    try:
        before: bytes | None = blobs.get(part.media.hash)
    except StoreError:
        before = None
    identical = made is not None and made.content == part.media.content
    distance: float | None = 0.0 if identical else None
    if not identical and before is not None and made is not None:
        distance = array_distance(before, bytes_made.get(made.hash) or blobs.get(made.hash), part.modality)
    return MediumCheck(position, part.modality.value, part.media, made, identical, distance, before is not None)


def array_distance(one: bytes, other: bytes, modality: Modality) -> float:
    """The largest difference of two media on a scale of 0 to 1; 1 where their sizes differ."""
    if modality is Modality.IMAGE:
        first, second = (read_image(data).astype(np.float64) / 255 for data in (one, other))
    else:
        first, second = (read_audio(data)[0].astype(np.float64) / 2 for data in (one, other))
    if first.shape != second.shape:
        return 1.0
    return float(np.abs(first - second).max(initial=0.0))


def difference(one: Turn, other: Turn, blobs: Blobs) -> dict[str, Any]:
    """What two turns differ in: settings, prompt and reply ids, and each modality's parts."""
    return {
        "turns": [one.id, other.id],
        "settings": _settings(one, other),
        "prompt": _ids(one.prompt, other.prompt),
        "reply": _ids(one.generation.ids, other.generation.ids),
        "text": _words(_text(one), _text(other)),
        "media": {
            kind.value: _pairs(one, other, kind, blobs)
            for kind in Modality
            if kind is not Modality.TEXT and any(part.modality is kind for part in (*one.reply, *other.reply))
        },
    }


def _settings(one: Turn, other: Turn) -> dict[str, list[Any]]:
    """The settings that differ, each with both values."""
    sides = [
        {
            "seed": turn.generation.seed,
            "model": turn.model,
            "to": turn.bounds.to,
            "max_tokens": turn.bounds.max_tokens,
            "max_seconds": turn.bounds.max_seconds,
            **{f"sampling {kind.value}": asdict(sampling) for kind, sampling in turn.sampling.items()},
            **{f"option {name}": value for name, value in turn.options.items()},
            **{f"fingerprint {name}": value for name, value in turn.fingerprints.items()},
            **{f"version {name}": value for name, value in turn.versions.items()},
        }
        for turn in (one, other)
    ]
    names = sorted(set(sides[0]) | set(sides[1]))
    return {name: [side.get(name) for side in sides] for name in names if sides[0].get(name) != sides[1].get(name)}


def _ids(one: Sequence[int], other: Sequence[int]) -> dict[str, Any]:
    shorter = min(len(one), len(other))
    part = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    return {"counts": [len(one), len(other)], "identical": tuple(one) == tuple(other), "shared": part}


def _text(turn: Turn) -> str:
    return " ".join(part.text for part in turn.reply if part.text)


def _words(one: str, other: str) -> dict[str, Any]:
    """The words that only the one or only the other has, in their order, marked "- " and "+ "."""
    changed = [line for line in ndiff(one.split(), other.split()) if line[0] in "-+"]
    return {"identical": one == other, "changed": changed}


def _pairs(one: Turn, other: Turn, kind: Modality, blobs: Blobs) -> list[dict[str, Any]]:
    sides = [[part for _, part in _media(turn) if part.modality is kind] for turn in (one, other)]
    pairs = []
    for first, second in zip(*sides, strict=False):
        if first.media is None or second.media is None:
            continue
        identical = first.media.content == second.media.content
        pairs.append(
            {
                "hashes": [first.media.hash, second.media.hash],
                "identical": identical,
                "distance": 0.0 if identical else _distance(first.media, second.media, kind, blobs),
                "ids": _ids(first.span.ids if first.span else (), second.span.ids if second.span else ()),
                "seconds": [first.media.duration, second.media.duration],
            }
        )
    lonely = abs(len(sides[0]) - len(sides[1]))
    return [*pairs, *({"missing": "second" if len(sides[0]) > len(sides[1]) else "first"} for _ in range(lonely))]


def _distance(one: Media, other: Media, kind: Modality, blobs: Blobs) -> float | None:
    try:
        return array_distance(blobs.get(one.hash), blobs.get(other.hash), kind)
    except StoreError:
        return None
