"""Turns and media for the tests of the store; also imported by the child processes that the tests kill."""

from __future__ import annotations

import hashlib
import random
import uuid
from typing import Any

from anyloom.anygpt_model.values import Bounds, Generation, Media, Modality, Part, Sampling, Span, Turn


def medium(data: bytes, **changes: Any) -> Media:
    """The description of a sound that consists of `data`."""
    name = "sha256:" + hashlib.sha256(data).hexdigest()
    fields: dict[str, Any] = {
        "hash": name,
        "content": "sha256:" + hashlib.sha256(b"decoded" + data).hexdigest(),
        "mime": "audio/wav",
        "size": len(data),
        "duration": 1.25,
        "sample_rate": 16_000,
    }
    return Media(**{**fields, **changes})


def make_turn(
    text: str = "draw a red apple",
    *,
    parent: Turn | None = None,
    conversation: str = "thread-1",
    asked: Media | None = None,
    made: Media | None = None,
    tokens: int = 20,
    seed: int = 2**63 + 5,
    **changes: Any,
) -> Turn:
    """A turn with all fields in use. asked: a medium of the request, made: one of the reply."""
    draw = random.Random(f"{text!r}{tokens}")
    ids = tuple(draw.randrange(53_000) for _ in range(tokens))
    request = [Part(Modality.TEXT, text=text, span=Span(Modality.TEXT, (5, 6, 7)))]
    if asked:
        request.append(Part(Modality.SPEECH, media=asked, span=Span(Modality.SPEECH, (40_000, 40_001))))
    reply = [Part(Modality.TEXT, text="here you are", span=Span(Modality.TEXT, (8, 9)), generated=True)]
    if made:
        span = Span(Modality.IMAGE, (50_000, 51_000))
        reply.append(Part(Modality.IMAGE, media=made, span=span, generated=True, seed=seed))
    fields: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "conversation": conversation,
        "parent": parent.id if parent else None,
        "run": uuid.uuid4().hex,
        "request": tuple(request),
        "reply": tuple(reply),
        "prompt": (1, *ids[:10]),
        "generation": Generation(
            ids=ids,
            logprobs=tuple(-draw.random() for _ in ids),
            margins=tuple(draw.random() if n else float("inf") for n, _ in enumerate(ids)),
            finish="end",
            seed=seed,
        ),
        "bounds": Bounds(to=Modality.IMAGE, modalities=frozenset({Modality.IMAGE, Modality.TEXT})),
        "sampling": {Modality.TEXT: Sampling(temperature=0.7, top_k=40), Modality.IMAGE: Sampling(top_p=0.9)},
        "model": "pocket",
        "fingerprints": {"llm": "sha256:aa", "image": "sha256:bb"},
        "versions": {"torch": "2.11.0"},
        "timings": {"detect": 0.001, "generate": 1.5},
        "options": {"voice": None, "to": "image", "loud": True, "speed": 1.25, "n": 3},
        "created": "2026-11-23T21:35:10.123456+00:00",
        "dropped": 1,
    }
    return Turn(**{**fields, **changes})
