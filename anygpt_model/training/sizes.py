"""The recipe's sizes, by one JSON file: what it leaves out is the pocket's own. Knows no network.

    {"language": {"hidden": 512, "layers": 8}, "soundstorm": {"dim": 256}}

A work folder keeps the file beside its checkpoints: they fit no other sizes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError

Sized = TypeVar("Sized")

_CODEC = {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1}
SIZES: dict[str, dict[str, int]] = {
    "language": {"hidden": 64, "layers": 1, "batch_ids": 1},
    "speech": _CODEC,
    "soundstorm": {"dim": 16, "depth": 1, "heads": 1, "dim_head": 16},
    "music": _CODEC,
}
"""Part -> its sizes, and what each must be a multiple of."""
BEGUN = {
    "language": ("language/state.pt", "language/llm"),
    "speech": ("speech/codec.pt", "speech/codec"),
    "soundstorm": ("speech/soundstorm.pt", "speech/soundstorm"),
    "music": ("music/codec.pt", "music/codec"),
}
"""Part -> what tells that its training has begun in a work folder, or what it would go on from."""
KEPT = "sizes.json"
LARGEST = 1 << 20


def sized(work: Path, part: str, usual: Sized) -> Sized:
    """`usual`, a dataclass, with what the work folder's file says of `part` over it. Raises InputError."""
    path = work / KEPT
    return replace(usual, **read(path).get(part, {})) if path.exists() else usual  # type: ignore[type-var]


def keep(work: Path, given: Path) -> None:
    """Take the file `given` for the work folder, which is there.

    Raises InputError for what it can't mean, or where training of a part has begun with other sizes.
    """
    wanted, path = read(given), work / KEPT
    before = read(path) if path.exists() else {}
    for part, marks in BEGUN.items():
        if wanted.get(part, {}) != before.get(part, {}) and any((work / mark).exists() for mark in marks):
            raise InputError(
                f"{given.name} says other sizes of {part} than {work} was begun with; give another --work."
            )
    path.write_text(json.dumps(wanted, indent=2) + "\n", "utf-8")


def read(path: Path) -> dict[str, dict[str, int]]:
    """The sizes in a file. Raises InputError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} can't be read as JSON ({error}); an object of sizes by part is taken.") from None
    if not isinstance(found, dict) or not all(isinstance(sizes, dict) for sizes in found.values()):
        raise InputError(f'{path.name} holds something else; {{"language": {{"hidden": 512}}}} is taken.')
    for part, sizes in found.items():
        for name, size in sizes.items():
            _check(part, name, size)
    return found


def _check(part: str, name: str, size: Any) -> None:
    known = SIZES.get(part)
    if known is None:
        raise InputError(f"There is no part named {part!r} to give sizes; use one of {', '.join(SIZES)}.")
    if name not in known:
        raise InputError(f"The part {part} has no size named {name!r}; it has {', '.join(known)}.")
    step = known[name]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= LARGEST or size % step:
        kind = f"a multiple of {step}" if step > 1 else "a whole number above 0"
        raise InputError(f"The size {name} of {part} is {size!r}; {kind} is taken.")
