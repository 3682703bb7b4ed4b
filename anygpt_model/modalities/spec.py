"""What a modality is to the language model: its markers, its code tokens and how they are drawn by default.

Knows no id (the vocabulary derives those from a checkpoint's token strings) and no codec (cardinality, frame rate and
sample rate are the codec's, and known only once it is open).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..values import Modality, Sampling


@dataclass(frozen=True, slots=True)
class ModalitySpec:
    """One modality's place in AnyGPT's published layout.

    opening, closing: token strings of the markers ("" for text, which has none). code_prefix: code n is the token
    `<{code_prefix}{n}>`. codebooks: levels that the language model sees; frame-major, n = code + cardinality * level.
    fixed_codes: a span has exactly so many codes; None where it ends by its closing marker. span_seconds: the longest
    sound that one span holds; None where only the caller's bounds count. sampling: used where a request names none.
    """

    modality: Modality
    opening: str = ""
    closing: str = ""
    code_prefix: str = ""
    codebooks: int = 1
    fixed_codes: int | None = None
    span_seconds: float | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def code_token(self, number: int) -> str:
        """The token string of code `number`, as in added_tokens.json."""
        return f"<{self.code_prefix}{number}>"
