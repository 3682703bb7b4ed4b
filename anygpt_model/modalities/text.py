"""Text: the modality at offset zero, with no markers and no codes."""

from __future__ import annotations

from ..values import Modality, Sampling
from .spec import ModalitySpec

# The published configuration leaves top_k unset, which the library it was written for reads as 50.
TEXT = ModalitySpec(Modality.TEXT, sampling=Sampling(temperature=1.0, top_k=50))
