"""The base model's one exchange: a text, picture or sound in, one modality out, after an instruction.

A text beside a medium is the instruction. The base model knows no conversation, so earlier turns are left out. Knows
no chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..anygpt_model import dialogue
from ..anygpt_model.errors import InputError
from ..anygpt_model.values import Bounds, Modality, Part
from ..anygpt_model.vocabulary import Vocabulary

BASE = "base"
"""The template name of models that know no conversation."""


def base_bounds(bounds: Bounds) -> Bounds:
    """`bounds` as the base model was trained: a single segment of the demanded modality (text if none is), no more."""
    to = bounds.to or Modality.TEXT
    return replace(bounds, to=to, modalities=frozenset([to]), max_segments=1)


def base_prompt(parts: Sequence[Part], to: Modality, instruction: str | None, vocabulary: Vocabulary) -> list[int]:
    """The prompt ids of one request. instruction: None takes the text beside a medium, else the direction's default.

    Raises InputError for a second medium, and for a direction that the base model hasn't got.
    """
    media = [part for part in parts if part.modality is not Modality.TEXT]
    words = " ".join(part.text for part in parts if part.modality is Modality.TEXT and part.text)
    if len({(part.modality, part.media) for part in media}) > 1:
        raise InputError(
            f"{len(media)} media came; a base model takes one picture or sound, and a text as its instruction."
        )
    if media and words and instruction:
        raise InputError("An instruction and a text beside a medium came; a base model takes the one or the other.")
    if not media:
        return dialogue.format_base(Part(Modality.TEXT, text=words), to, vocabulary, instruction)
    return dialogue.format_base(media, to, vocabulary, instruction or words or None)
