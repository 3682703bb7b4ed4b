"""A user's own chats to learn from: a JSONL file, or a folder of media with a text of the same name beside each.

A line of JSONL is {"messages": [{"role": "user", "content": [{"image": "cat.png"}, "What is this?"]}, {"role":
"assistant", "content": "a tabby cat"}]}, or shorter {"prompt": …, "reply": …}. Content is a text or a list of texts and
of {modality: path}, paths relative to the file. Knows no model: media stay paths.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from ..dialogue import Role
from ..errors import InputError, MediaError
from ..media import PICTURES, read_audio, sniff
from ..sound_kind import sound_kind
from ..values import Modality

ASKED: dict[Modality, tuple[str, str]] = {
    Modality.IMAGE: ("What is this?", "Draw {}."),
    Modality.SPEECH: ("Write down what is said.", "Say: {}"),
    Modality.MUSIC: ("What music is this?", "Play {}."),
}
"""What a folder's chats ask: of a medium for its text, and of a text for its medium."""
TAKEN = 'a line is {"messages": [...]} or {"prompt": ..., "reply": ...}'


@dataclass(frozen=True, slots=True)
class Entry:
    """A text, or a medium's file."""

    modality: Modality
    text: str = ""
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a chat."""

    role: Role
    entries: tuple[Entry, ...]


Chat = tuple[Said, ...]


def read_pairs(source: Path) -> list[Chat]:
    """The chats of a JSONL file or a folder. Raises InputError, naming the line or file that can't be taken."""
    if source.is_dir():
        chats = list(_folder(source))
    elif source.is_file():
        chats = list(_lines(source))
    else:
        raise InputError(f"There is no file or folder {source}; pass a JSONL file of chats or a folder of pairs.")
    if not chats:
        raise InputError(f"{source} holds no pair; a folder takes NAME.png or NAME.wav beside NAME.txt.")
    return chats


def split(chats: Sequence[Chat], share: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Chats to learn, and a random `share` to hold out; chats about the same files stay together."""
    groups: dict[object, list[Chat]] = {}
    for number, chat in enumerate(chats):
        files = frozenset(entry.file for said in chat for entry in said.entries if entry.file is not None)
        groups.setdefault(files or number, []).append(chat)
    drawn = list(groups.values())
    random.Random(seed).shuffle(drawn)
    held = int(len(drawn) * share)
    return list(chain(*drawn[held:])), list(chain(*drawn[:held]))


def _lines(source: Path) -> Iterator[Chat]:
    try:
        lines = source.read_text("utf-8").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{source.name} is not UTF-8 text; a JSONL file of chats or a folder is taken.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _chat(json.loads(line), source.parent)
            except (json.JSONDecodeError, InputError) as error:
                reason = "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
                raise InputError(f"Line {number} of {source.name} can't be taken ({reason}); {TAKEN}.") from None


def _chat(row: Any, home: Path) -> Chat:
    if not isinstance(row, dict) or not ({"messages"} <= row.keys() or {"prompt", "reply"} <= row.keys()):
        raise InputError("it names neither messages nor prompt and reply")
    short = [{"role": "user", "content": row.get("prompt")}, {"role": "assistant", "content": row.get("reply")}]
    told = row.get("messages", short)
    if not isinstance(told, list) or not all(isinstance(message, dict) for message in told):
        raise InputError("its messages are no list of objects")
    roles = [message.get("role") for message in told]
    if len(roles) < 2 or any(role != get_args(Role)[i % 2] for i, role in enumerate(roles)) or len(roles) % 2:
        raise InputError("its messages don't go user, assistant, user, assistant")
    return tuple(Said(message["role"], _entries(message.get("content"), home)) for message in told)


def _entries(content: Any, home: Path) -> tuple[Entry, ...]:
    listed = content if isinstance(content, list) else [content]
    entries = tuple(_entry(each, home) for each in listed)
    if not entries:
        raise InputError("a message is empty")
    return entries


def _entry(told: Any, home: Path) -> Entry:
    if isinstance(told, str) and told.strip():
        return Entry(Modality.TEXT, text=told)
    if isinstance(told, dict) and len(told) == 1:
        ((name, value),) = told.items()
        if name in {kind.value for kind in Modality} and isinstance(value, str) and value.strip():
            if name == Modality.TEXT:
                return Entry(Modality.TEXT, text=value)
            if not (home / value).is_file():
                raise InputError(f"there is no file {value}")
            return Entry(Modality(name), file=home / value)
    raise InputError("content is a text, or a list of texts and of one-entry objects like {'image': 'cat.png'}")


def _folder(source: Path) -> Iterator[Chat]:
    """Two chats of each pair: what the medium is, and the medium for its text."""
    for file in sorted(source.iterdir()):
        words = file.with_suffix(".txt")
        if file.suffix == ".txt" or not words.is_file():
            continue
        text, modality = _words(words), _modality(file)
        if not text:
            raise InputError(f"{words.name} is empty; write what {file.name} shows or says.")
        ask, make = ASKED[modality]
        medium = Entry(modality, file=file)
        yield Said("user", (medium, Entry(Modality.TEXT, ask))), Said("assistant", (Entry(Modality.TEXT, text),))
        yield Said("user", (Entry(Modality.TEXT, make.format(text)),)), Said("assistant", (medium,))


def _words(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{file.name} is not UTF-8 text; write what the file beside it shows or says.") from None


def _modality(file: Path) -> Modality:
    with naming(file):
        data = file.read_bytes()
        return Modality.IMAGE if sniff(data) in PICTURES else sound_kind(*read_audio(data))


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Say of which file a MediaError is, or that it can't be read."""
    try:
        yield
    except MediaError as error:
        raise InputError(f"{file.name}: {error}") from None
    except OSError as error:
        raise InputError(f"{file.name} can't be read ({error.strerror}); mend it or take it out.") from None
