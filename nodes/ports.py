"""The protocols that nodes need from whoever keeps things: Blobs, Memo, Turns, Voices, and Fetch; graphs/ injects them.

Knows no database: anything with these methods serves, a dictionary in a test as well as the SQL store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..anygpt_model.values import Media, Turn

Codes = NDArray[np.int64]


class Blobs(Protocol):
    """Media bytes by content hash ("sha256:<hex>"); writing the same bytes twice keeps one copy."""

    def put(self, data: bytes, media: Media) -> Media:
        """Keep `data`, described by `media`; returns what is kept. The bytes are on disk before this returns."""
        ...

    def get(self, hash: str) -> bytes:
        """The bytes; StoreError if they are missing or no longer match their hash."""
        ...

    def describe(self, hash: str) -> Media:
        """What is known of a kept medium; UnknownName if there is none."""
        ...


class Memo(Protocol):
    """A medium is tokenized once in its life: (media hash, codec fingerprint) -> codes; and made once: (codes,
    decoder's fingerprint, seed) -> medium."""

    def codes(self, media: str, fingerprint: str) -> Codes | None:
        """The codes made before, [codebooks, frames], or None."""
        ...

    def keep_codes(self, media: str, fingerprint: str, codes: Codes) -> None:
        """Remember `codes`."""
        ...

    def decoded(self, codes: Codes, fingerprint: str, seed: int) -> Media | None:
        """The medium made of `codes` before, if its bytes are still kept, or None."""
        ...

    def keep_decoded(self, codes: Codes, fingerprint: str, seed: int, media: str) -> None:
        """Remember the hash of the medium that was made of `codes`."""
        ...


class Turns(Protocol):
    """Stored turns, append-only. Messages say which turns, the store says which ids."""

    def record(self, turn: Turn) -> Turn:
        """Write one turn in one transaction and return it with its hash; a run already recorded returns its turn."""
        ...

    def turn(self, id: str) -> Turn:
        """One turn; UnknownName if there is none. A unique prefix of the id (8 characters or more) serves."""
        ...

    def lineage(self, id: str) -> Sequence[Turn]:
        """The turn and its ancestors, oldest first."""
        ...

    def tip(self, conversation: str) -> Turn | None:
        """The newest turn of a conversation, or None."""
        ...


class Voices(Protocol):
    """Named voices: a short recording kept with the speaker's consent note."""

    def voice(self, name: str) -> Media:
        """The recording of a saved voice; UnknownName if there is none."""
        ...


class Fetch(Protocol):
    """Bytes by URL, for graphs that were opened with them on."""

    def __call__(self, url: str, max_bytes: int) -> bytes:
        """The bytes at `url`; MediaError for one that is refused, too large, too slow or not there."""
        ...


class Keeper(Blobs, Memo, Turns, Voices, Protocol):
    """All four together: what `build_graph` takes as its store."""
