"""The frozen values that cross between floors. Pure data: no tensor, no identity of a database, no behaviour.

Four nouns carry everything: a Part is what a person sees, codes are what a codec emits ([codebooks, frames] integers),
a Span is a run of vocabulary ids of one modality, ids are what the language model reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Modality(StrEnum):
    """What a part of a message is made of."""

    TEXT = "text"
    IMAGE = "image"
    SPEECH = "speech"
    MUSIC = "music"


Finish = Literal["end", "length", "cancelled"]
"""Why a generation stopped: the model ended its turn, the token limit came, the caller cancelled."""


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or sound kept in the blob store, by reference.

    hash: "sha256:<hex>" of the file's bytes. content: "sha256:<hex>" of the decoded pixels (uint8 RGB) or samples, so
    that two encodings of the same picture compare equal. size: bytes. duration: seconds. width, height: pixels.
    """

    hash: str
    content: str
    mime: str
    size: int
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A run of vocabulary ids of one modality, its opening and closing markers left out."""

    modality: Modality
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message. Text parts hold `text`, the others `media`. `span` is the part as the model sees it.

    kind "transcript" marks what a chain-of-modality reply wrote down of the user's speech (AnyGPT's `<-Ins->`).
    generated: the model made this span: its ids are the source of truth, the media can be made again from them.
    seed: what the decoder of a generated medium was seeded with.
    """

    modality: Modality
    text: str | None = None
    media: Media | None = None
    span: Span | None = None
    kind: Literal["content", "transcript"] = "content"
    generated: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How ids of one modality are drawn. temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution whole.

    repetition_penalty applies to the ids of the open span only. beams: above 1, so many wordings are searched instead
    of one being drawn; counts for text, for replies of text alone, and such a reply can't be verified.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    beams: int = 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a reply must and may hold.

    to: a modality of which at least one segment is made before the turn may end; None leaves it to the model.
    modalities: those the reply may use. max_tokens: ids in all. max_seconds: of each sound.
    max_segments: of each modality.
    """

    to: Modality | None = None
    modalities: frozenset[Modality] = frozenset(Modality)
    max_tokens: int = 1500
    max_seconds: float = 20.0
    max_segments: int = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the language model: prompt ids in, at most `bounds.max_tokens` ids out, drawn with `seed`.

    sampling: per modality; a missing modality uses the registry's default.
    """

    prompt: tuple[int, ...]
    seed: int
    bounds: Bounds = field(default_factory=Bounds)
    sampling: Mapping[Modality, Sampling] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generation:
    """What the language model made: ids, and for each id its log-probability (natural, under the legal distribution at
    temperature 1) and the margin of its choice (score of the chosen minus the best other score, after noise)."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    finish: Finish
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange, append-only: everything needed to show it, make it again and prove it.

    run: the caller's run id (a run records once). parent: the turn before, None at the start. dropped: turns of the
    history that were left out of the prompt because the context was full. options: the serialisable options of the
    call. fingerprints: part name ("llm", "image", "speech", "music", "tokenizer") -> "sha256:…". timings: node ->
    seconds.
    hash: over the content and the parent's hash (storage fills it).
    """

    id: str
    conversation: str
    parent: str | None
    run: str
    request: tuple[Part, ...]
    reply: tuple[Part, ...]
    prompt: tuple[int, ...]
    generation: Generation
    bounds: Bounds
    sampling: Mapping[Modality, Sampling]
    model: str
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]
    timings: Mapping[str, float]
    options: Mapping[str, str | int | float | bool | None]
    created: str
    dropped: int = 0
    hash: str = ""
