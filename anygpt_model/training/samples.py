"""What an evaluation made of the first held-out cases, to look at and to hear: pictures, sounds, texts.

Nothing is picked by hand: the order of cases is frozen. Knows no judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..media import write_png, write_wav
from ..values import Modality
from .directions.direction import Case, Made

PICTURES, ROW, SIDE = 24, 12, 96
"""Pictures on a sheet, pictures in a row, and their side in pixels."""
SOUNDS = 6


def write(
    folder: Path, name: str, cases: Sequence[Case], made: Sequence[Made], real: Sequence[Made], rate: int
) -> None:
    """Write what was made of the first of `cases`, all of one direction, into `folder` under the direction's `name`.

    A sheet of pictures (the real one above each), or sounds of `rate` samples a second; and, in words, what was asked
    for and what came.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z]+", "-", name.lower().replace("→", "to")).strip("-")
    to = cases[0].prompt.to
    if to == Modality.IMAGE:
        pairs = list(zip(real, made, strict=True))[:PICTURES]
        (folder / f"{slug}.png").write_bytes(write_png(sheet(pairs)))
    elif to != Modality.TEXT:
        for number, sound in enumerate(made[:SOUNDS], 1):
            if sound is not None and not isinstance(sound, str):
                (folder / f"{slug}-{number}.wav").write_bytes(write_wav(np.asarray(sound, np.float32), rate))
    lines = [f"{case.id}\t{case.prompt.text}\t{_told(answer)}" for case, answer in zip(cases, made, strict=True)]
    (folder / f"{slug}.txt").write_text("\n".join(lines) + "\n", "utf-8")


def sheet(pairs: Sequence[Sequence[Made]]) -> NDArray[np.uint8]:
    """One picture of all `pairs`, ROW in a row, the first of each above the second; white where there is none."""
    rows = []
    for start in range(0, len(pairs), ROW):
        line = [*pairs[start : start + ROW], *[(None, None)] * (ROW - len(pairs[start : start + ROW]))]
        rows += [np.concatenate([_square(pair[half]) for pair in line], axis=1) for half in (0, 1)]
    return np.concatenate(rows)


def _square(picture: Made) -> NDArray[np.uint8]:
    from PIL import Image

    if picture is None or isinstance(picture, str):
        return np.full((SIDE, SIDE, 3), 255, np.uint8)
    return np.asarray(Image.fromarray(picture).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _told(answer: Made) -> str:
    if isinstance(answer, str):
        return answer
    return "nothing" if answer is None else "x".join(map(str, answer.shape))
