"""Handles: media by reference, for callers. Bytes become a content block before a graph runs; a block becomes bytes
after.

So checkpoints and agents' contexts hold hashes and measures, never media. Knows no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..anygpt_model.errors import InputError, MediaError
from ..anygpt_model.media import Limits, read_audio, read_image
from ..anygpt_model.values import Modality
from ..nodes.ingestion import ingest
from ..nodes.messages import media_block
from ..nodes.options import modality as named
from ..nodes.ports import Blobs

Block = dict[str, Any]


def to_block(
    store: Blobs, data: bytes | Path | str, modality: str | None = None, limits: Limits | None = None
) -> Block:
    """Keep a picture or a sound and return the block that refers to it.

    data: the file's bytes, or its path. modality: the caller's word, if any. Raises MediaError, UnknownName.
    """
    raw = data if isinstance(data, bytes) else _read(Path(data))
    said = None if modality is None else named(modality)
    part = ingest(raw, store, limits or Limits(), said)
    if part.media is None:
        raise InputError("A text came where a picture or a sound is taken.")
    return media_block(part.modality, part.media)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"The file {path} can't be read ({error.strerror}); check its path.") from None


def handles(message: Any) -> list[Block]:
    """The media blocks of a message, in order."""
    return [block for block in message.content_blocks if isinstance(block.get("file_id"), str)]


def to_bytes(store: Blobs, handle: Block | str) -> bytes:
    """The bytes behind a block, or behind a hash."""
    return store.get(handle if isinstance(handle, str) else str(handle["file_id"]))


def to_file(store: Blobs, handle: Block | str, path: Path) -> Path:
    """Write the medium to `path`."""
    path.write_bytes(to_bytes(store, handle))
    return path


def to_array(store: Blobs, handle: Block | str) -> NDArray[np.uint8] | tuple[NDArray[np.float32], int]:
    """A picture as uint8 [H, W, 3]; a sound as (float32 [samples] mono, samples a second)."""
    name = handle if isinstance(handle, str) else str(handle["file_id"])
    if store.describe(name).mime.startswith("image/"):
        return read_image(store.get(name), Limits())
    return read_audio(store.get(name), Limits())


def modality_of(handle: Block) -> Modality:
    """What a block is made of."""
    return Modality(handle["extras"]["anyloom"]["modality"])
