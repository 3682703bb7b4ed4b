"""Speech: the semantic level of SpeechTokenizer, one code a frame, ended by its marker."""

from __future__ import annotations

from ..values import Modality, Sampling
from .spec import ModalitySpec

SPEECH = ModalitySpec(
    Modality.SPEECH,
    opening="<sosp>",
    closing="<eosp>",
    code_prefix="\U0001f5e3\ufe0f",  # speaking head, with the variation selector that the checkpoints' strings carry
    # top_k is unset in the published configuration: the library it was written for reads that as 50.
    sampling=Sampling(temperature=1.0, top_k=50, repetition_penalty=1.05),
)
