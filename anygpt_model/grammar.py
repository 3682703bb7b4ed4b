"""Spans <-> ids of a reply.

A reply is text, segments of media between their markers, perhaps a transcript (`<-Ins-> … <-Res->`) before them, and a
stop id. Knows no tensor and no codec; which ids may come next while a reply is being made is legality's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import InputError
from .modalities import spec
from .values import Modality, Part, Span
from .vocabulary import INSTRUCTION, RESPONSE, Vocabulary


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of one modality in a reply, without its markers. closed: its closing marker came."""

    modality: Modality
    ids: tuple[int, ...]
    kind: Literal["content", "transcript"] = "content"
    closed: bool = True


class Reader:
    """Takes a reply's ids one at a time and hands out each segment as soon as it is whole."""

    def __init__(self, vocabulary: Vocabulary, opened: Modality | None = None) -> None:
        """opened: the modality of the span that the prompt left open, if any (a forced output modality)."""
        self._vocabulary = vocabulary
        self._openings = {table.opening: modality for modality, table in vocabulary.ranges.items()}
        self._open = opened
        self._transcribing = False
        self._ids: list[int] = []
        self._position = -1

    def push(self, token: int) -> Segment | None:
        """The segment that `token` completes, if any. Raises InputError, with its position, for an id out of place."""
        self._position += 1
        if self._open is not None:
            return self._media(token, self._open)
        if self._vocabulary.modality(token) == Modality.TEXT:
            self._ids.append(token)
            return None
        done = self._take(Modality.TEXT)
        if token in self._openings and not self._transcribing:
            self._open = self._openings[token]
        elif not self._transcribing and self._is(token, INSTRUCTION):
            self._transcribing = True
        elif self._transcribing and self._is(token, RESPONSE):
            self._transcribing = False
        elif token not in self._vocabulary.stop_ids or self._transcribing:
            raise self._misplaced(token)
        return done

    def finish(self) -> Segment | None:
        """What is left when no id follows: closed text, or media that never closed."""
        if self._open is None:
            return self._take(Modality.TEXT)
        segment = Segment(self._open, tuple(self._ids), closed=False)
        self._open, self._ids = None, []
        return segment

    def _media(self, token: int, modality: Modality) -> Segment | None:
        table = self._vocabulary.range(modality)
        if token in table.codebook(len(self._ids)):
            self._ids.append(token)
            return None
        fixed = spec(modality).fixed_codes
        whole = self._ids and len(self._ids) % table.codebooks == 0 and fixed in (None, len(self._ids))
        if token != table.closing or not whole:
            raise self._misplaced(token)
        self._open = None
        return self._take(modality)

    def _take(self, modality: Modality) -> Segment | None:
        ids, self._ids = tuple(self._ids), []
        kind: Literal["content", "transcript"] = "transcript" if self._transcribing else "content"
        return Segment(modality, ids, kind) if ids else None

    def _is(self, token: int, name: str) -> bool:
        return self._vocabulary.has(name) and token == self._vocabulary.id(name)

    def _misplaced(self, token: int) -> InputError:
        place = f"in a span of {self._open} after {len(self._ids)} codes" if self._open else "in text"
        return InputError(
            f"Id {token} ({self._vocabulary.string(token)}) at position {self._position} can't stand {place}; "
            "these ids are not a reply of this checkpoint."
        )


def segments(ids: Iterable[int], vocabulary: Vocabulary, opened: Modality | None = None) -> list[Segment]:
    """A reply's segments in their order, nothing left out but markers. Raises InputError for an id out of place."""
    ids = tuple(ids)
    said = ids[:-1]
    if opened is None and said and ids[-1] in vocabulary.stop_ids and vocabulary.all_text(said):
        return [Segment(Modality.TEXT, said)]  # as most replies are: no need to look at each id
    reader = Reader(vocabulary, opened)
    found = [reader.push(token) for token in ids]
    return [segment for segment in [*found, reader.finish()] if segment is not None]


def parse(ids: Iterable[int], vocabulary: Vocabulary, opened: Modality | None = None) -> list[Part]:
    """A reply's ids -> its parts in their order, each with its span; blank text and an unclosed medium are left out.

    opened: the modality of the span that the prompt left open, if any. Raises InputError for an id out of place.
    """
    parts = [to_part(segment, vocabulary) for segment in segments(ids, vocabulary, opened)]
    return [part for part in parts if part is not None]


def to_part(segment: Segment, vocabulary: Vocabulary) -> Part | None:
    """A segment as a generated part; None for blank text and for a medium that never closed."""
    span = Span(segment.modality, segment.ids)
    if segment.modality != Modality.TEXT:
        return Part(segment.modality, span=span, generated=True) if segment.closed else None
    text = vocabulary.decode(segment.ids).strip()
    return Part(Modality.TEXT, text=text, span=span, kind=segment.kind, generated=True) if text else None


def render(parts: Iterable[Part], vocabulary: Vocabulary) -> list[int]:
    """Parts -> ids, media between their markers, a transcript between `<-Ins->` and `<-Res->`; no stop id.

    A part without a span is encoded if it is text; raises InputError for a medium without one.
    """
    ids: list[int] = []
    for part in parts:
        if part.modality == Modality.TEXT:
            text = part.span.ids if part.span is not None else tuple(vocabulary.encode(part.text or ""))
            around = part.kind == "transcript"
            ids += [vocabulary.id(INSTRUCTION), *text, vocabulary.id(RESPONSE)] if around else text
        elif part.span is None:
            raise InputError(f"A {part.modality} part came without its tokens; tokenize it before it is rendered.")
        else:
            table = vocabulary.range(part.modality)
            ids += [table.opening, *part.span.ids, table.closing]
    return ids
