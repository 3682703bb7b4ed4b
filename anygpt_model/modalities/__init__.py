"""The registry of modalities: a tuple, in the order in which AnyGPT added their tokens. Text stands apart.

A modality is one file here; modalities do not know each other. A fifth one is a new file and a new entry in the tuple.
"""

from __future__ import annotations

from ..errors import UnknownName
from ..values import Modality
from .image import IMAGE
from .music import MUSIC
from .spec import ModalitySpec
from .speech import SPEECH
from .text import TEXT

REGISTRY: tuple[ModalitySpec, ...] = (IMAGE, SPEECH, MUSIC)
"""The modalities that have markers and codes, in the order of the published vocabulary."""


def spec(modality: Modality | str) -> ModalitySpec:
    """The entry of `modality`. Raises UnknownName for a name that is not one of them."""
    for entry in (TEXT, *REGISTRY):
        if entry.modality == modality:
            return entry
    known = ", ".join(entry.modality.value for entry in (TEXT, *REGISTRY))
    raise UnknownName(f"There is no modality named {str(modality)!r}; use one of {known}.")


__all__ = ["REGISTRY", "TEXT", "ModalitySpec", "spec"]
