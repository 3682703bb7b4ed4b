"""Pictures: exactly 32 codes of SEED-2 between their markers."""

from __future__ import annotations

from ..values import Modality, Sampling
from .spec import ModalitySpec

IMAGE = ModalitySpec(
    Modality.IMAGE,
    opening="<soim>",
    closing="<eoim>",
    code_prefix="\U0001f440",  # eyes
    fixed_codes=32,
    # top_k is unset in the published configuration: the library it was written for reads that as 50.
    sampling=Sampling(temperature=1.0, top_k=50),
)
