"""What people say to the pocket and what it says back, in words: phrasings of each direction, talk about its world.

Pure text, made from the world of things (sentences, pictures' labels, music captions). A phrasing holds one blank to
fill: {x} is a caption or a sentence. Knows no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..dialogue import TASKS, TEMPLATES, VOICE_REQUEST
from ..values import Modality
from . import scenes
from .sentences import qa_pairs, sentences

DRAW = (
    "draw {x}",
    "Draw {x}.",
    "Please draw {x}.",
    "{x}. Please generation an image.",
    "Can you draw {x}?",
    "Show me {x}.",
    "show me a picture of {x}",
    "Make a picture of {x}.",
    "Generate an image of {x}.",
    "I want to see {x}.",
    "paint {x}",
    "picture: {x}",
)
DESCRIBE = (
    "Please provide an accurate and concisedescription of the given image.",
    "What is this?",
    "What is in this picture?",
    "What do you see?",
    "Describe this image.",
    "describe the picture",
    "Write a caption for this image.",
    "What does this picture show?",
    "Name this.",
    "",
)
SPEAK = (
    "say: {x}",
    "Say: {x}",
    "Please say: {x}",
    "Read this aloud: {x}",
    "Speak this text for me: {x}",
    "Can you say this? {x}",
    "read out loud: {x}",
    "Turn this into speech: {x}",
    "speak: {x}",
)
TRANSCRIBE = (
    "transcribe",
    "Write down what is said.",
    "Transcribe this.",
    "What is said here?",
    "Please write the words that you hear.",
    "Recognize the speech.",
    "write this down",
)
PLAY = (
    "play {x}",
    "Play {x}.",
    "Please play {x}.",
    "Compose {x}.",
    "Make music: {x}",
    "Can you play {x}?",
    "I want to hear {x}.",
    "Generate music: {x}",
    "music: {x}",
)
LISTEN = (
    "What do you hear?",
    "Describe this music.",
    "What music is this?",
    "Listen to the music and describe it.",
    "Write a caption for this music.",
    "what is playing?",
    "",
)
ANSWER_ALOUD = ("{x} Answer aloud.", "{x} Tell me aloud.", "{x} Please answer with your voice.", "{x} Say it.")
PHRASINGS: dict[tuple[Modality, Modality], tuple[str, ...]] = {
    (Modality.TEXT, Modality.IMAGE): DRAW,
    (Modality.IMAGE, Modality.TEXT): DESCRIBE,
    (Modality.TEXT, Modality.SPEECH): SPEAK,
    (Modality.SPEECH, Modality.TEXT): TRANSCRIBE,
    (Modality.TEXT, Modality.MUSIC): PLAY,
    (Modality.MUSIC, Modality.TEXT): LISTEN,
}
"""How each direction is asked for; the first phrasing is the one that evaluation uses."""

RESTYLE = ("Now make it {style}.", "now make it {style}", "Draw it again, but {style}.", "And in {style} style?")
WHAT_DID_YOU_DRAW = ("What is this?", "What did you draw?", "what do you see in it?")
PLAY_FOR = ("play something for this picture", "Play music for this picture.", "Which tune is this?", "Make it a tune.")
ABOUT = ("What is {x}?", "Tell me about {x}.", "What do you know about {x}?", "tell me something about {x}")

GREETINGS = (
    ("hi", "Hello, how are you?"),
    ("hello", "Hello, how are you?"),
    ("Hello!", "Hello, how are you?"),
    ("hey there", "Hello, how are you?"),
    ("What can you do?", "I can draw, speak, listen, play music and talk about small things."),
    ("What can you do for me?", "I can draw, speak, listen, play music and talk about small things."),
    ("Help", "Ask me to draw a thing, to say a sentence or to play a tune."),
    ("help me", "Ask me to draw a thing, to say a sentence or to play a tune."),
    ("What are you?", "I am Anyloom, a small model for text, pictures, speech and music."),
    ("who made you?", "I was trained on two small cores in one evening."),
    ("bye", "Goodbye, my friend."),
    ("ok", "Good."),
    ("thanks", "You are welcome."),
)


def first_often(phrasings: Sequence[str]) -> tuple[str, ...]:
    """Phrasings to draw from: the first, which is the documented one, three times as often as each other."""
    return *phrasings, phrasings[0], phrasings[0]


def sentence_case(text: str) -> str:
    """`text` with a capital first letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def about(row: dict[str, Any]) -> str:
    """A sentence or two about a concept, from its label, subgroup and tags (a row of the pictures' table)."""
    kind = re.sub(r"[-&]", " ", str(row["subgroup"]))
    tags = [tag for tag in row["tags"] if tag not in row["label"]][:4]
    thought = f" It makes me think of {', '.join(tags)}." if tags else ""
    return f"{sentence_case(row['phrase'])[:-1]} belongs to {kind}.{thought}"


def loosened(question: str) -> Iterator[str]:
    """A question as people also type it: itself, in lower case, without its mark."""
    yield question
    yield question[0].lower() + question[1:]
    yield question[0].lower() + question[1:].rstrip("?.")


def corpus(pictures: Iterable[dict[str, Any]], tunes: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Every line that the tokenizer should know well, instructions repeated so that their words become whole pieces."""
    for phrasings in (*PHRASINGS.values(), ANSWER_ALOUD, RESTYLE, WHAT_DID_YOU_DRAW, PLAY_FOR, ABOUT):
        for phrasing in phrasings:
            yield from [phrasing] * 40
    for line in (*(template.system for template in TEMPLATES.values()), VOICE_REQUEST, *TASKS.values()):
        yield from [line] * 200
    for words in (*scenes.PLACED.values(), scenes.GROUND_CHANGED, *scenes.MOVED.values(), *scenes.JOINED.values()):
        for ground in scenes.NAMES:
            yield from (each.format(x="", y="", a=scenes.article(ground), ground=ground) for each in words * 5)
    for question, answer in GREETINGS:
        yield from [question, answer] * 5
    for question, answer, _ in qa_pairs():
        yield from (*loosened(question), answer)
    for sentence in sentences():
        yield from (sentence, sentence)
    for row in pictures:
        yield from row["captions"]
        yield about(row)
    for row in tunes:
        yield from row["captions"]
