"""Music: whole frames of four EnCodec levels, at most five seconds a span, ended by its marker."""

from __future__ import annotations

from ..values import Modality, Sampling
from .spec import ModalitySpec

MUSIC = ModalitySpec(
    Modality.MUSIC,
    opening="<somu>",
    closing="<eomu>",
    code_prefix="\U0001f3b6",  # musical notes
    codebooks=4,
    span_seconds=5.0,  # what the published model was trained on; longer sounds become several spans
    sampling=Sampling(temperature=1.0, top_k=200, repetition_penalty=1.15),
)
