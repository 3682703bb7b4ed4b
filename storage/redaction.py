"""What of a turn may be shown to a stranger: its shape, its settings, its numbers of ids; nothing that was said.

Works on documents (documents.py). Ids are content too: they decode to the text. Knows no database.
"""

from __future__ import annotations

import hashlib
from typing import Any

Document = dict[str, Any]
KEPT_OF_MEDIA = ("mime", "size", "width", "height", "duration", "sample_rate")
KEPT_OF_TURN = (
    "id",
    "parent",
    "created",
    "dropped",
    "bounds",
    "sampling",
    "model",
    "fingerprints",
    "versions",
    "timings",
)


def redact_turn(line: Document) -> Document:
    """A line of turns.jsonl without content: arrays become their lengths, names of conversations a digest."""
    turn = line["turn"]
    conversation = {"conversation": _veil(turn["conversation"])}
    if line["erased"]:
        return {**line, "turn": {"id": turn["id"], "parent": turn["parent"], **conversation}}
    made = turn["generation"]
    generation = {
        **{name: len(made[name]) for name in ("ids", "logprobs", "margins")},
        "finish": made["finish"],
        "seed": made["seed"],
    }
    kept = {name: turn[name] for name in KEPT_OF_TURN}
    sides = {side: [_redact_part(part) for part in turn[side]] for side in ("request", "reply")}
    return {**line, "turn": {**kept, **conversation, **sides, "prompt": len(turn["prompt"]), "generation": generation}}


def redact_media(media: Document) -> Document:
    """A line of media.jsonl that does not say which medium it is."""
    return {name: media[name] for name in KEPT_OF_MEDIA}


def _redact_part(part: Document) -> Document:
    kept = {name: part[name] for name in ("modality", "kind", "generated")}
    span, media = part["span"], part["media"]
    return {
        **kept,
        "text": None if part["text"] is None else len(part["text"]),
        "span": None if span is None else {"modality": span["modality"], "ids": len(span["ids"])},
        "media": None if media is None else redact_media(media),
    }


def _veil(name: str) -> str:
    return "redacted-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
