"""Conversation -> prompt ids, and the loss mask of a training example from the same pass.

A prompt is a list of pieces: text, which is only ever encoded as text, or ids, which come from the vocabulary or from
typed spans. So nothing that a person types can forge a marker. The strings are AnyGPT's, its typing errors included,
because the weights were trained with them. Knows no sampling and no codec; generated replies enter as their raw ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from .errors import InputError, UnknownName
from .values import Modality, Part, Span
from .vocabulary import (
    ANYGPT,
    END_OF_HUMAN,
    END_OF_MESSAGE,
    END_OF_REPLY,
    HUMAN,
    INSTRUCTION,
    MMGPT,
    RESPONSE,
    Vocabulary,
)

Role = Literal["user", "assistant"]

VOICE_REQUEST = "Please recognize the voice command and give reply and voice"
TASKS: dict[str, str] = {
    "Text-to-Image Generation": "{caption} Please generation an image.",
    "Image Captioning": "{image} Please provide an accurate and concisedescription of the given image.",
    "Image QA": "{image} {text} Please provide an accurate answer consisting of only one word or phrase.",
    "Image Conversation": "{image} {text}",
    "Multimodal Prompt Image Generation": "{image} {text} Please generation an image.",
    "Multi-Image Understanding": "This is the first image. {image} This is the second image. {image} {text}",
    "Speech-Instruction": "{speech} " + VOICE_REQUEST,
    "Text-Instruction": "{text} Please interpret the user's text input, create a textual response.",
}
"""AnyGPT's task prompts beside "interleaved". A field takes the message's next part of that kind; a caption that ends
without a mark gets a full stop."""

INSTRUCTIONS: dict[tuple[Modality, Modality], str] = {
    (Modality.SPEECH, Modality.TEXT): "Analyze the spoken words and transcribe them accurately.",
    (Modality.IMAGE, Modality.TEXT): "Write a caption for this image.",
    (Modality.MUSIC, Modality.TEXT): "Listen to the music and describe the mood it evokes.",
    (Modality.TEXT, Modality.SPEECH): "Speak this text for me.",
    (Modality.TEXT, Modality.IMAGE): "Create a visual interpretation of the following words.",
    (Modality.TEXT, Modality.MUSIC): "Create a musical piece that captures the essence of this caption.",
}
"""The base model's directions, each with one instruction of its training list."""


@dataclass(frozen=True, slots=True)
class Template:
    """How a chat model was trained to see a conversation."""

    name: str
    system: str
    role: str
    end: str


_SYSTEM = (
    "You are an AI assistant named {} who can understand and generate multimodal content, "
    "including text, speech, images and audio."
)
TEMPLATES = {
    "MMGPT": Template("MMGPT", _SYSTEM.format("MMGPT"), MMGPT, END_OF_REPLY),
    "AnyGPT": Template("AnyGPT", _SYSTEM.format("AnyGPT"), ANYGPT, END_OF_MESSAGE),
}


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said. Media parts need their `span`; text parts their `text`.

    ids: the raw ids of a generated reply, from after `[MMGPT]:`; where given, `parts` aren't read.
    task: "interleaved", or one of TASKS for a user's message.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    ids: tuple[int, ...] | None = None
    task: str = "interleaved"


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text or of ids; `learned` where a training example puts its loss."""

    content: str | tuple[int, ...]
    learned: bool = False


def chat_template(name: Template | str) -> Template:
    """The chat template called `name`; a template is returned as it is. Raises UnknownName."""
    if isinstance(name, Template):
        return name
    if name not in TEMPLATES:
        raise UnknownName(f"There is no template named {name!r}; use one of {', '.join(TEMPLATES)}, or base.")
    return TEMPLATES[name]


def format(
    messages: Sequence[Message], vocabulary: Vocabulary, template: Template | str = "MMGPT", to: Modality | None = None
) -> list[int]:
    """The prompt ids of a chat whose last message is the user's; the reply starts after the last id.

    to: put that modality's opening marker at the end, as AnyGPT's forced modalities do; the reply starts inside a span.
    Raises InputError for an empty conversation, a last message that isn't the user's, and a medium without a span.
    """
    if not messages or messages[-1].role != "user":
        raise InputError("A prompt ends with the user's message; add one after the last reply.")
    style = chat_template(template)
    pieces = [*chat_pieces(messages, vocabulary, style), Piece("\n"), *_opening(vocabulary, style)]
    ids, _ = encode(pieces, vocabulary)
    return ids if to is None else [*ids, *forced(to, vocabulary)]


def format_example(
    messages: Sequence[Message], vocabulary: Vocabulary, template: Template | str = "MMGPT"
) -> tuple[list[int], list[bool]]:
    """A training example: the ids of a whole chat, and for each whether the loss counts it (replies and their ends)."""
    style = chat_template(template)
    return encode(chat_pieces(messages, vocabulary, style), vocabulary)


def forced(to: Modality, vocabulary: Vocabulary) -> list[int]:
    """The ids that, put after `[MMGPT]:`, make the reply start with a segment of `to`; none for text."""
    return [] if to == Modality.TEXT else [*lead(vocabulary), vocabulary.range(to).opening]


def lead(vocabulary: Vocabulary) -> list[int]:
    """The blank between `[MMGPT]:` and a marker, as ids."""
    return vocabulary.encode(": ")[len(vocabulary.encode(":")) :]


def format_base(
    source: Part | Sequence[Part], to: Modality, vocabulary: Vocabulary, instruction: str | None = None
) -> list[int]:
    """The base model's prompt ids: one part in, one modality out; instruction None takes the direction's default.

    source: several parts where one long sound fills several spans.
    """
    ids, _ = encode(base_pieces(source, to, vocabulary, instruction), vocabulary)
    return ids


def format_base_example(
    source: Part, target: Part, vocabulary: Vocabulary, instruction: str | None = None
) -> tuple[list[int], list[bool]]:
    """A base model's training example, `</s>` at its end. The loss counts every id, as AnyGPT's pre-training did."""
    pieces = base_pieces(source, target.modality, vocabulary, instruction)
    pieces += [Piece(" "), *_content(target, vocabulary), Piece((vocabulary.id(END_OF_REPLY), vocabulary.eos))]
    ids, _ = encode(pieces, vocabulary)
    return ids, [True] * len(ids)


def base_pieces(
    source: Part | Sequence[Part], to: Modality, vocabulary: Vocabulary, instruction: str | None = None
) -> list[Piece]:
    """The base model's prompt as pieces. Raises InputError for a direction it has not got."""
    parts = [source] if isinstance(source, Part) else list(source)
    given = parts[0].modality
    if (given, to) not in INSTRUCTIONS:
        known = ", ".join(f"{a}->{b}" for a, b in INSTRUCTIONS)
        raise InputError(f"A base model does not turn {given} into {to}; it does: {known}.")
    instruction = instruction or INSTRUCTIONS[given, to]
    glue = " This is input: " if given == Modality.TEXT else " "
    return [
        Piece((vocabulary.id(HUMAN),)),
        Piece(f": {instruction}{glue}"),
        *(piece for part in parts for piece in _content(part, vocabulary)),
        Piece((vocabulary.id(END_OF_HUMAN),)),
        Piece(" "),
        Piece((vocabulary.id(MMGPT),)),
        Piece(":"),
    ]


def chat_pieces(messages: Iterable[Message], vocabulary: Vocabulary, style: Template) -> list[Piece]:
    """A chat as pieces: the system line, then one line a message; what the assistant says is learned."""
    pieces = [Piece(style.system)]
    for message in messages:
        pieces.append(Piece("\n"))
        if message.role == "user":
            pieces += [Piece((vocabulary.id(HUMAN),)), Piece(": "), *_request(message, vocabulary)]
            pieces.append(Piece((vocabulary.id(END_OF_HUMAN),)))
        else:
            reply = [Piece(piece.content, learned=True) for piece in _reply(message, vocabulary)]
            pieces += [*_opening(vocabulary, style), *reply, Piece((vocabulary.id(style.end),), learned=True)]
    return pieces


def encode(pieces: Iterable[Piece], vocabulary: Vocabulary) -> tuple[list[int], list[bool]]:
    """Pieces -> ids, `<s>` first, and the mask of learned ids. Neighbouring texts are one segment to the tokenizer."""
    ids, mask = [vocabulary.bos], [False]
    for is_text, run in groupby(pieces, key=lambda piece: isinstance(piece.content, str)):
        group = list(run)
        if is_text:
            segment = vocabulary.encode("".join([str(piece.content) for piece in group]))
            start = len(segment)
            if any(piece.learned for piece in group):
                given = "".join([str(piece.content) for piece in group if not piece.learned])
                start = min(start, len(vocabulary.encode(given)))
            ids += segment
            mask += [False] * start + [True] * (len(segment) - start)
        else:
            for piece in group:
                ids += [int(token) for token in piece.content]
                mask += [piece.learned] * len(piece.content)
    return ids, mask


def render(pieces: Iterable[Piece], vocabulary: Vocabulary) -> str:
    """Pieces as the string that AnyGPT would write, markers in their token strings: for people and for comparison."""
    texts = (
        piece.content if isinstance(piece.content, str) else "".join(map(vocabulary.string, piece.content))
        for piece in pieces
    )
    return "".join(texts)


def _opening(vocabulary: Vocabulary, style: Template) -> list[Piece]:
    return [Piece((vocabulary.id(style.role),)), Piece(":")]


def _request(message: Message, vocabulary: Vocabulary) -> list[Piece]:
    """A user's message: AnyGPT's order is pictures, music, speech, text, and any speech asks for a spoken reply."""
    if message.task != "interleaved":
        return _strip(_task(message, vocabulary))
    media = [_of(message, kind) for kind in (Modality.IMAGE, Modality.MUSIC, Modality.SPEECH)]
    pieces: list[Piece] = []
    for part in (part for parts in media for part in parts):
        pieces += [*_content(part, vocabulary), Piece(" ")]
    pieces.append(Piece(_text(message)))
    if media[-1]:
        pieces.append(Piece(" " + VOICE_REQUEST))
    return _strip(pieces)


def _task(message: Message, vocabulary: Vocabulary) -> list[Piece]:
    if message.task not in TASKS:
        known = ", ".join(["interleaved", *TASKS])
        raise UnknownName(f"There is no task named {message.task!r}; use one of {known}.")
    waiting = {kind: iter(_of(message, kind)) for kind in (Modality.IMAGE, Modality.SPEECH)}
    pieces: list[Piece] = []
    for number, chunk in enumerate(re.split(r"\{(\w+)\}", TASKS[message.task])):
        if number % 2 == 0:
            pieces.append(Piece(chunk))
        elif chunk == "caption":
            text = _text(message)
            pieces.append(Piece(text if text.endswith((".", "!", "?")) else text + "."))
        elif chunk == "text":
            pieces.append(Piece(_text(message)))
        else:
            part = next(waiting[Modality(chunk)], None)
            if part is None:
                raise InputError(f"The task {message.task!r} takes one more {chunk} than came; add it to the message.")
            pieces += _content(part, vocabulary)
    return pieces


def _reply(message: Message, vocabulary: Vocabulary) -> list[Piece]:
    """An assistant's message: its raw ids without their end marks, or its parts with one blank before each."""
    if message.ids is not None:
        ids = message.ids
        while ids and ids[-1] in vocabulary.stop_ids:
            ids = ids[:-1]
        return [Piece(ids)]
    pieces: list[Piece] = []
    for part in message.parts:
        pieces.append(Piece(" "))
        if part.kind == "transcript":
            pieces += [Piece((vocabulary.id(INSTRUCTION),)), Piece(f" {part.text}\n ")]
            pieces.append(Piece((vocabulary.id(RESPONSE),)))
        else:
            pieces += _content(part, vocabulary)
    return pieces


def _content(part: Part, vocabulary: Vocabulary) -> list[Piece]:
    if part.modality == Modality.TEXT:
        return [Piece(part.text or "")]
    if part.span is None:
        raise InputError(f"A {part.modality} part came without its tokens; tokenize it before the prompt is made.")
    return [Piece(wrapped(part.span, vocabulary))]


def wrapped(span: Span, vocabulary: Vocabulary) -> tuple[int, ...]:
    """A span's ids between its markers; a span whose ids are not of its modality is refused with InputError."""
    table = vocabulary.range(span.modality)
    if not all(token in table for token in span.ids):
        raise InputError(
            f"A {span.modality} span holds ids of something else; only {span.modality} codes may stand in it."
        )
    return (table.opening, *span.ids, table.closing)


def _of(message: Message, modality: Modality) -> list[Part]:
    return [part for part in message.parts if part.modality == modality]


def _text(message: Message) -> str:
    return " ".join(part.text for part in _of(message, Modality.TEXT) if part.text)


def _strip(pieces: list[Piece]) -> list[Piece]:
    """As str.strip over the whole message: blanks go at its two ends, not around media within."""
    pieces = [piece for piece in pieces if piece.content]
    if pieces and isinstance(pieces[0].content, str):
        pieces[0] = Piece(pieces[0].content.lstrip())
    if pieces and isinstance(pieces[-1].content, str):
        pieces[-1] = Piece(pieces[-1].content.rstrip())
    return pieces
