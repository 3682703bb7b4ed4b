"""The codes that the codecs' trainers wrote, as rows by split, and the noise that keeps them from being learnt by rote.

Knows neither chats nor networks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modalities import spec
from ..values import Modality, Part
from ..vocabulary import Vocabulary

Codes = NDArray[np.int64]
Row = dict[str, Any]
Turn = tuple[tuple[Part, ...], tuple[Part, ...]]
"""A request and its reply."""

ROWS = {Modality.IMAGE: "images.json", Modality.MUSIC: "clips.json"}
"""Where the rows of a modality stand, if not in tokens.json (which is always written last)."""


@dataclass
class Media:
    """The rows of one modality and their codes [codebooks, frames], by split."""

    train: list[tuple[Row, Codes]] = field(default_factory=list)
    test: list[tuple[Row, Codes]] = field(default_factory=list)


def read_media(work: Path, modality: Modality) -> Media:
    """What a codec's trainer has written: `work`/<modality>/tokens.npz and tokens.json; empty if it has not."""
    folder = work / modality.value
    if not (folder / "tokens.npz").exists() or not (folder / "tokens.json").exists():
        return Media()
    rows: list[Row] = json.loads((folder / ROWS.get(modality, "tokens.json")).read_text("utf-8"))
    with np.load(folder / "tokens.npz", allow_pickle=False) as opened:
        arrays = dict(opened)
    codes = arrays["codes"]
    if "lengths" in arrays:
        pieces = np.split(codes, np.cumsum(arrays["lengths"])[:-1], axis=-1)
    else:
        pieces = list(codes)
    books = spec(modality).codebooks
    media = Media()
    for row, piece in zip(rows, pieces, strict=True):
        kept = media.train if row["split"] == "train" else media.test
        kept.append((row, np.atleast_2d(piece)[:books].astype(np.int64)))
    return media


def read_views(work: Path) -> NDArray[np.int64] | None:
    """What the tokenizer itself makes of every picture seen in several ways, int64 [pictures, views, codes]; None if
    its trainer has not written `work`/image/views.npz."""
    path = work / Modality.IMAGE.value / "views.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as opened:
        return opened["codes"].astype(np.int64)  # type: ignore[no-any-return]


def text_part(words: str) -> Part:
    """Words as a part of a message."""
    return Part(Modality.TEXT, words)


def code_part(modality: Modality, codes: Codes, vocabulary: Vocabulary) -> Part:
    """Codes [codebooks, frames] as a part of a message."""
    return Part(modality, span=vocabulary.to_span(modality, codes))


def noisy(ids: NDArray[np.int64], vocabulary: Vocabulary, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """`ids` with a `share` of the codes replaced by others of their codebook, so that no single code is trusted."""
    noised = ids.copy()
    for table in vocabulary.ranges.values():
        hit = (ids >= table.start) & (ids < table.stop) & (rng.random(ids.shape) < share)
        book = (ids[hit] - table.start) // table.cardinality
        noised[hit] = table.start + book * table.cardinality + rng.integers(0, table.cardinality, int(hit.sum()))
    return noised
