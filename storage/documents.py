"""A turn as a JSON document and back, and its digest: the recipe "t1:" of the chain.

The same document is a line of an archive and what the digest covers; for the digest each array of numbers is replaced
by the SHA-256 of its little-endian i64 or f64 bytes, so that ten thousand ids cost microseconds. Knows no database.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from ..anygpt_model.values import Bounds, Finish, Generation, Media, Modality, Part, Sampling, Span, Turn
from .columns import canonical, float_array, integer_array

Document = dict[str, Any]
Kind = Literal["content", "transcript"]
Spell = Callable[[Sequence[Any]], Any]

RECIPE = "t1:"
"""Begins every digest and hash of a turn; another way to derive them takes another prefix."""
STRANGE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def digest(turn: Turn) -> str:
    """The digest of the turn's content, its own hash and its parent's left out."""
    document = turn_document(turn, _fold_integers, _fold_floats)
    return RECIPE + hashlib.sha256(canonical(document).encode()).hexdigest()


def chain(content: str, parent: str | None) -> str:
    """The hash of a turn: over the digest of its content and the hash of its parent."""
    return RECIPE + hashlib.sha256(f"{content}\n{parent or ''}".encode()).hexdigest()


def turn_document(turn: Turn, integers: Spell | None = None, floats: Spell | None = None) -> Document:
    """All of `turn` but its hash. `integers` and `floats` say how arrays are spelled: as JSON numbers unless given."""
    integers, floats = integers or _plain_integers, floats or _plain_floats
    made = turn.generation
    return {
        "id": turn.id,
        "conversation": turn.conversation,
        "parent": turn.parent,
        "run": turn.run,
        "created": turn.created,
        "dropped": int(turn.dropped),
        "options": dict(turn.options),
        "request": [part_document(part, integers) for part in turn.request],
        "reply": [part_document(part, integers) for part in turn.reply],
        "prompt": integers(turn.prompt),
        "generation": {
            "ids": integers(made.ids),
            "logprobs": floats(made.logprobs),
            "margins": floats(made.margins),
            "finish": made.finish,
            "seed": int(made.seed),
        },
        "bounds": bounds_document(turn.bounds),
        "sampling": sampling_document(turn.sampling),
        "model": turn.model,
        "fingerprints": dict(turn.fingerprints),
        "versions": dict(turn.versions),
        "timings": {node: float(seconds) for node, seconds in turn.timings.items()},
    }


def part_document(part: Part, integers: Spell | None = None) -> Document:
    """One part; its media by reference."""
    span = part.span
    return {
        "modality": part.modality.value,
        "text": part.text,
        "media": media_document(part.media) if part.media else None,
        "span": {"modality": span.modality.value, "ids": (integers or _plain_integers)(span.ids)} if span else None,
        "kind": part.kind,
        "generated": bool(part.generated),
        "seed": None if part.seed is None else int(part.seed),
    }


def media_document(media: Media) -> Document:
    """The description of a medium."""
    return {
        "hash": media.hash,
        "content": media.content,
        "mime": media.mime,
        "size": int(media.size),
        "width": None if media.width is None else int(media.width),
        "height": None if media.height is None else int(media.height),
        "duration": None if media.duration is None else float(media.duration),
        "sample_rate": None if media.sample_rate is None else int(media.sample_rate),
    }


def bounds_document(bounds: Bounds) -> Document:
    """What the reply had to and could hold."""
    return {
        "to": bounds.to.value if bounds.to else None,
        "modalities": sorted(modality.value for modality in bounds.modalities),
        "max_tokens": int(bounds.max_tokens),
        "max_seconds": float(bounds.max_seconds),
        "max_segments": int(bounds.max_segments),
    }


def sampling_document(sampling: Mapping[Modality, Sampling]) -> Document:
    """How each modality was drawn."""
    return {
        Modality(modality).value: {
            "temperature": float(one.temperature),
            "top_k": int(one.top_k),
            "top_p": float(one.top_p),
            "repetition_penalty": float(one.repetition_penalty),
            **({"beams": int(one.beams)} if one.beams > 1 else {}),  # else turns from before it would hash anew
        }
        for modality, one in sampling.items()
    }


def read_turn(document: Document) -> Turn:
    """The turn of a document with plain numbers. Raises KeyError, TypeError or ValueError for any other document."""
    made = document["generation"]
    return Turn(
        id=_string(document["id"]),
        conversation=_string(document["conversation"]),
        parent=None if document["parent"] is None else _string(document["parent"]),
        run=_string(document["run"]),
        created=_string(document["created"]),
        dropped=int(document["dropped"]),
        options=dict(document["options"]),
        request=tuple(read_part(part) for part in document["request"]),
        reply=tuple(read_part(part) for part in document["reply"]),
        prompt=tuple(int(id) for id in document["prompt"]),
        generation=Generation(
            ids=tuple(int(id) for id in made["ids"]),
            logprobs=tuple(_real(value) for value in made["logprobs"]),
            margins=tuple(_real(value) for value in made["margins"]),
            finish=cast(Finish, _one_of(made["finish"], get_args(Finish))),
            seed=int(made["seed"]),
        ),
        bounds=read_bounds(document["bounds"]),
        sampling=read_sampling(document["sampling"]),
        model=_string(document["model"]),
        fingerprints={_string(name): _string(value) for name, value in document["fingerprints"].items()},
        versions={_string(name): _string(value) for name, value in document["versions"].items()},
        timings={_string(node): float(seconds) for node, seconds in document["timings"].items()},
    )


def read_part(document: Document) -> Part:
    """The part of a document with plain numbers."""
    span, media = document["span"], document["media"]
    return Part(
        modality=Modality(document["modality"]),
        text=None if document["text"] is None else _string(document["text"]),
        media=read_media(media) if media is not None else None,
        span=Span(Modality(span["modality"]), tuple(int(id) for id in span["ids"])) if span is not None else None,
        kind=cast(Kind, _one_of(document["kind"], get_args(Kind))),
        generated=bool(document["generated"]),
        seed=None if document["seed"] is None else int(document["seed"]),
    )


def read_media(document: Document) -> Media:
    """The medium of a document. Raises TypeError for a field too many or too few."""
    return Media(**document)


def read_bounds(document: Document) -> Bounds:
    """The bounds of a document."""
    return Bounds(
        to=Modality(document["to"]) if document["to"] else None,
        modalities=frozenset(Modality(name) for name in document["modalities"]),
        max_tokens=int(document["max_tokens"]),
        max_seconds=float(document["max_seconds"]),
        max_segments=int(document["max_segments"]),
    )


def read_sampling(document: Document) -> dict[Modality, Sampling]:
    """The sampling of a document."""
    return {Modality(name): Sampling(**one) for name, one in document.items()}


def _plain_integers(values: Sequence[int]) -> list[int]:
    return [int(value) for value in values]


def _plain_floats(values: Sequence[float]) -> list[float | str]:
    return [float(value) if math.isfinite(value) else str(float(value)) for value in values]


def _real(value: float | str) -> float:
    return STRANGE[value] if isinstance(value, str) else float(value)


def _fold_integers(values: Sequence[int]) -> str:
    return "sha256:" + hashlib.sha256(integer_array(values).data).hexdigest()


def _fold_floats(values: Sequence[float]) -> str:
    return "sha256:" + hashlib.sha256(float_array(values).data).hexdigest()


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return str(value)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string was expected, not {type(value).__name__}")
    return value
