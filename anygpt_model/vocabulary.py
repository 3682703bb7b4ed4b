"""Sole owner of id ranges, read from a checkpoint's own token strings: text pieces, markers, each modality's codes.

Knows no prompt template (dialogue does), no legality (grammar does) and no network. Text is encoded as the slow legacy
tokenizer did that the published weights were trained with: each run of text between added tokens on its own, with its
own dummy prefix. Only ids make markers: no text, whatever it spells, is ever encoded to an added token.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError, InputError
from .modalities import REGISTRY, ModalitySpec
from .values import Modality, Span

HUMAN, MMGPT, ANYGPT = "[Human]", "[MMGPT]", "[AnyGPT]"
END_OF_HUMAN, END_OF_REPLY, END_OF_MESSAGE = "<eoh>", "<eos>", "<eom>"
INSTRUCTION, RESPONSE = "<-Ins->", "<-Res->"
UNKNOWN_SURFACE = " \u2047 "
SHORT = 256
"""Characters of a text whose ids are remembered: a template's own lines are in every prompt."""


@dataclass(frozen=True, slots=True)
class CodeRange:
    """The ids of one modality: `start` .. `stop` (exclusive) for its codes, one id for each of its two markers."""

    modality: Modality
    start: int
    cardinality: int
    codebooks: int
    opening: int
    closing: int

    @property
    def stop(self) -> int:
        """One past the last code id."""
        return self.start + self.cardinality * self.codebooks

    def codebook(self, position: int) -> range:
        """The ids that may stand at `position` of a span, counted in ids from its opening marker."""
        first = self.start + self.cardinality * (position % self.codebooks)
        return range(first, first + self.cardinality)

    def __contains__(self, token: int) -> bool:
        return self.start <= token < self.stop


def _surface_of(token: int, surfaces: tuple[bytes, ...]) -> bytes:
    if not 0 <= token < len(surfaces):
        raise InputError(f"Id {token} is not a text id; decode takes ids from 0 to {len(surfaces) - 1}.")
    return surfaces[token]


class TextStream:
    """Turns text ids into characters one id at a time; holds back bytes of a character that is not yet whole.

    The concatenation of every `feed` and the last `finish` is `Vocabulary.decode` of the same ids.
    """

    def __init__(self, surfaces: tuple[bytes, ...]) -> None:
        self._surfaces = surfaces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._started = False

    def feed(self, token: int) -> str:
        """The characters that `token` completes, possibly none. Raises InputError for an id that is not text."""
        surface = _surface_of(token, self._surfaces)
        if surface and not self._started:
            self._started = True
            surface = surface.removeprefix(b" ")
        return self._decoder.decode(surface)

    def finish(self) -> str:
        """What is left when no id follows: a replacement character for a character that stayed incomplete."""
        return self._decoder.decode(b"", final=True)


class Vocabulary:
    """Token strings <-> ids of one checkpoint. Immutable, safe for threads."""

    def __init__(self, pieces: Any, added: Mapping[str, int]) -> None:
        """pieces: a sentencepiece.SentencePieceProcessor. added: token string -> id, as in added_tokens.json."""
        self._pieces = pieces
        self._encoded = lru_cache(maxsize=256)(self._encode)
        self._added = dict(added)
        self.text_size: int = len(pieces)
        """Ids below are SentencePiece's; added tokens follow."""
        self._check_added()
        self._strings = {number: string for string, number in self._added.items()}
        self.size = self.text_size + len(self._added)
        self.unknown: int = pieces.unk_id()
        self.bos: int = pieces.bos_id()
        self.eos: int = pieces.eos_id()
        self.pad = self.unknown
        """The published tokenizer pads with `<unk>`."""
        self.ranges: dict[Modality, CodeRange] = {
            found.modality: found for spec in REGISTRY if (found := self._range(spec)) is not None
        }
        self.stop_ids: frozenset[int] = frozenset(
            [self.eos, *(self._added[name] for name in (END_OF_REPLY, END_OF_MESSAGE) if name in self._added)]
        )
        self._surfaces = tuple(self._surface(token) for token in range(self.text_size))
        self.text_ids: tuple[int, ...] = tuple(
            token for token in range(self.text_size) if self._surfaces[token] and token != self.unknown
        )
        """Ids that make characters: whole pieces and single bytes; neither control ids nor `<unk>`."""

    @classmethod
    def from_folder(cls, folder: Path | str) -> Vocabulary:
        """The vocabulary of the language model's folder (`…/llm`): tokenizer.model and added_tokens.json.

        Raises CheckpointError for a missing or unreadable file and for code ranges that have gaps.
        """
        from sentencepiece import SentencePieceProcessor

        folder = Path(folder)
        model, table = folder / "tokenizer.model", folder / "added_tokens.json"
        for path in (model, table):
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; a language model's folder needs its tokenizer files.")
        try:
            pieces = SentencePieceProcessor(model_proto=model.read_bytes())
        except RuntimeError as error:
            raise CheckpointError(f"{model} is not a SentencePiece model; fetch the checkpoint again.") from error
        return cls(pieces, _read_table(table))

    def has(self, name: str) -> bool:
        """Whether the checkpoint has the added token `name`."""
        return name in self._added

    def id(self, name: str) -> int:
        """The id of the added token `name`. Raises CheckpointError where the checkpoint has none."""
        if name not in self._added:
            raise CheckpointError(f"This checkpoint has no token {name}; use one whose added_tokens.json names it.")
        return self._added[name]

    def range(self, modality: Modality) -> CodeRange:
        """The ids of `modality`. Raises CheckpointError where the checkpoint has none (text has no range)."""
        if modality not in self.ranges:
            known = ", ".join(self.ranges) or "none"
            raise CheckpointError(f"This checkpoint has no tokens for {modality}; it has those of: {known}.")
        return self.ranges[modality]

    def modality(self, token: int) -> Modality | None:
        """What `token` is a code or a piece of; None for markers, roles and control ids."""
        if 0 <= token < self.text_size:
            return Modality.TEXT if token > self.eos else None
        return next((found.modality for found in self.ranges.values() if token in found), None)

    def all_text(self, tokens: Sequence[int]) -> bool:
        """Whether all of `tokens`, of which there is one at least, are pieces of text."""
        return self.eos < min(tokens) and max(tokens) < self.text_size

    def string(self, token: int) -> str:
        """The token string of any id, as the checkpoint's files write it."""
        if token in self._strings:
            return self._strings[token]
        if 0 <= token < self.text_size:
            return str(self._pieces.id_to_piece(token))
        raise InputError(f"Id {token} is not in the vocabulary; it has the ids 0 to {self.size - 1}.")

    def encode(self, text: str) -> list[int]:
        """The ids of one run of text between two added tokens, its dummy prefix included; no ids for "".

        Raises InputError for half a character: what a shell or JSON makes of bytes that are no UTF-8.
        """
        return list(self._encoded(text) if len(text) <= SHORT else self._encode(text))

    def _encode(self, text: str) -> Sequence[int]:
        try:
            return self._pieces.encode(text.encode()) if text else []
        except UnicodeEncodeError as error:
            raise InputError(
                f"The text has {text[error.start]!r} at character {error.start + 1}, which is no character; "
                "give it in UTF-8."
            ) from None

    def decode(self, tokens: Iterable[int]) -> str:
        """The characters of text ids; the dummy prefix's blank is left out. Raises InputError for other ids."""
        whole = b"".join([_surface_of(token, self._surfaces) for token in tokens])
        return whole.removeprefix(b" ").decode("utf-8", "replace")

    def stream(self) -> TextStream:
        """A decoder that takes one id at a time."""
        return TextStream(self._surfaces)

    def to_span(self, modality: Modality, codes: NDArray[np.int64]) -> Span:
        """codes [codebooks, frames] -> a span, frame-major: id = start + code + cardinality * codebook.

        Raises InputError for another number of codebooks or a code out of range.
        """
        table = self.range(modality)
        if codes.ndim != 2 or codes.shape[0] != table.codebooks:
            raise InputError(
                f"Codes of shape {list(codes.shape)} came for {modality}; this model takes [{table.codebooks}, frames]."
            )
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < table.cardinality:
            raise InputError(
                f"Codes from {int(codes.min())} to {int(codes.max())} came for {modality}; "
                f"this model takes 0 to {table.cardinality - 1}."
            )
        offsets = table.start + table.cardinality * np.arange(table.codebooks)[:, None]
        return Span(modality, tuple((codes + offsets).T.reshape(-1).tolist()))

    def to_codes(self, span: Span) -> NDArray[np.int64]:
        """A span -> its codes [codebooks, frames].

        Raises InputError for an id of another modality, an unfinished frame, or a code at another codebook's place.
        """
        table = self.range(span.modality)
        if len(span.ids) % table.codebooks:
            raise InputError(
                f"A {span.modality} span of {len(span.ids)} ids came; "
                f"this model takes whole frames of {table.codebooks}."
            )
        offsets = table.start + table.cardinality * np.arange(table.codebooks)
        codes = np.asarray(span.ids, dtype=np.int64).reshape(-1, table.codebooks) - offsets
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < table.cardinality:
            raise InputError(f"A {span.modality} span holds ids that are not {span.modality} codes in their order.")
        return codes.T.copy()

    def _check_added(self) -> None:
        numbers = sorted(self._added.values())
        if numbers != list(range(self.text_size, self.text_size + len(numbers))):
            raise CheckpointError(
                f"added_tokens.json must number its tokens from {self.text_size} (after tokenizer.model) without a gap "
                f"or a double; it has {len(numbers)} from {numbers[0] if numbers else 'none'}."
            )

    def _range(self, spec: ModalitySpec) -> CodeRange | None:
        numbers: list[int] = []
        while (string := spec.code_token(len(numbers))) in self._added:
            numbers.append(self._added[string])
        counted = sum(string.startswith(f"<{spec.code_prefix}") for string in self._added)
        markers = [self._added.get(spec.opening), self._added.get(spec.closing)]
        if not counted and markers == [None, None]:
            return None
        opening, closing = markers
        if opening is None or closing is None:
            raise CheckpointError(
                f"added_tokens.json has {spec.modality} tokens but not both {spec.opening} and {spec.closing}."
            )
        contiguous = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
        if counted != len(numbers) or not contiguous or len(numbers) % spec.codebooks:
            raise CheckpointError(
                f"The {counted} {spec.modality} codes of added_tokens.json are not one unbroken range of ids "
                f"numbered from 0 in {spec.codebooks} equal codebook(s); fetch the checkpoint again."
            )
        return CodeRange(spec.modality, numbers[0], len(numbers) // spec.codebooks, spec.codebooks, opening, closing)

    def _surface(self, token: int) -> bytes:
        """The bytes that a text id stands for; none for control ids."""
        if self._pieces.is_control(token) or self._pieces.is_unused(token):
            return b""
        if self._pieces.is_unknown(token):
            return UNKNOWN_SURFACE.encode()
        piece: str = self._pieces.id_to_piece(token)
        if self._pieces.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()


def _read_table(path: Path) -> dict[str, int]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON; fetch the checkpoint again.") from error
    if not isinstance(table, dict) or not all(isinstance(number, int) for number in table.values()):
        raise CheckpointError(f"{path} must be one object of token strings and their ids; fetch the checkpoint again.")
    return table
