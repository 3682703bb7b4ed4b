"""Inputs -> rows of the ledger: what each asks for, and the key by which the same work is known again.

A key is a hash over the input's content, the options that shape the reply, and the model's fingerprints: any of them
changed means that the result is stale. Knows no flow and opens no model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

from ..anygpt_model.errors import InputError
from ..anygpt_model.media import Limits
from ..storage.jobs import NewItem
from .sources import Input, Source, printable

MAX_TEXT = 1_000_000
FIELDS = tuple(each.name for each in fields(Input))
SPELLED = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
"""The JSON that keys are made of; an encoder made once, as every item needs two."""
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the whole job asks for. text: put to every item beside its own; seed: from which each item's is made."""

    to: str
    text: str = ""
    voice: str | None = None
    seed: int = 0
    max_seconds: float | None = None
    max_tokens: int | None = None


def row(item: Input, source: Source, asked: Asked, model: dict[str, str]) -> NewItem:
    """The ledger's row of an input. A file that can't be read gets its row all the same, to be told as failed."""
    said = {name: getattr(item, name) for name in FIELDS}
    document = {**said, "media": [list(entry) for entry in item.media], "metadata": dict(item.metadata)}
    wanted = _wanted(item, asked)
    content = _content(item, source)
    wanted["seed"] = item.seed if item.seed is not None else _seed(asked.seed, content)
    key = digest({"content": content, "wanted": wanted, "model": model})
    return NewItem(item.name, key, {**document, **wanted, "hashes": content["files"]})


def digest(document: Any) -> str:
    """sha256 of a JSON document, its keys in order."""
    return hashlib.sha256(SPELLED(document).encode(errors="surrogatepass")).hexdigest()


def request_text(source: Source, document: Document) -> str:
    """The text that goes with an item: the job's own, then the item's, or its text file's content."""
    own = document["text"]
    if document["text_file"] is not None:
        own = _decoded(source.read(document["text_file"], MAX_TEXT), document["text_file"])
    whole = " ".join(text for text in (document["ask"], own) if text)
    if (spelled := printable(whole)) != whole:
        raise InputError(f"The text {spelled[:80]!r} holds what is no character; save it as UTF-8.")
    return whole


def _wanted(item: Input, asked: Asked) -> Document:
    limits = {"max_seconds": asked.max_seconds, "max_tokens": asked.max_tokens}
    return {"ask": asked.text, "to": item.to or asked.to, "voice": item.voice or asked.voice, **limits}


def _content(item: Input, source: Source) -> Document:
    files = [item.text_file] if item.text_file else []
    hashes = [_file_hash(path, source) for path in (*files, *(path for path, _ in item.media))]
    return {"text": item.text, "files": hashes, "said": [said for _, said in item.media]}


def _file_hash(path: str, source: Source) -> str:
    try:
        return hashlib.sha256(source.read(path, Limits().max_bytes)).hexdigest()
    except InputError:
        return "unreadable"


def _seed(seed: int, content: Document) -> int:
    """An item's seed: from the job's and the item's content, so that the order of the inputs doesn't matter."""
    return int(digest([seed, content])[:8], 16) & 0x7FFFFFFF


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
