"""Exchanges that join three kinds of media: a picture asked about aloud, a spoken request for a picture or a tune, a
tune for a picture.

Every one says in words what it heard or chose before it draws, speaks or plays, as AnyGPT's chains of modalities do.
Which tune suits a picture is a rule of this small world. Knows what the codecs wrote, no network.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from ..values import Modality, Part
from ..vocabulary import Vocabulary
from . import language_texts as texts
from .language_media import Codes, Media, Row, Turn, code_part, text_part
from .sentences import COLOURS, THINGS, requests

SUITS = {
    "animals-nature": ("flute", "moderate"),
    "food-drink": ("accordion", "moderate"),
    "travel-places": ("guitar", "slow"),
    "activities": ("banjo", "fast"),
    "objects": ("piano", "moderate"),
    "symbols": ("church organ", "slow"),
    "smileys-emotion": ("xylophone", "fast"),
    "people-body": ("violin", "slow"),
}
"""Instrument and tempo of the tune for a picture, by the group of what it shows."""
PACES = {"slow": "slow", "sad": "slow", "fast": "fast", "happy": "fast"}


class Mixed:
    """Draws such exchanges from what there is; `kinds` are those that can be drawn."""

    def __init__(
        self,
        media: Mapping[Modality, Media],
        read: Mapping[str, list[Codes]],
        said: Mapping[str, Codes],
        pairs: Sequence[tuple[str, str, str]],
        vocabulary: Vocabulary,
        rng: random.Random,
    ) -> None:
        self._rng, self._vocabulary = rng, vocabulary
        self._read, self._said = read, said
        self._pictures: dict[str, list[tuple[Row, Codes]]] = {}
        for row, codes in media[Modality.IMAGE].train:
            self._pictures.setdefault(str(row["label"]), []).append((row, codes))
        self._seen = [each for rows in self._pictures.values() for each in rows]
        self._tunes: dict[tuple[str, str], list[tuple[Row, Codes]]] = {}
        for row, codes in media[Modality.MUSIC].train:
            for trait in ("type", "tempo"):
                self._tunes.setdefault((row.get("instrument", ""), row.get(trait, "")), []).append((row, codes))
        self._asked = [
            (question, answer, thing)
            for question, answer, _ in pairs
            if question in read and answer in said and (thing := self._shown(question))
        ]
        spoken = [text for text in requests() if text in read]
        self._drawings = [(text, thing) for text in spoken if "draw" in text and (thing := self._shown(text))]
        self._played = [(text, tunes) for text in spoken if "draw" not in text and (tunes := self._wanted(text))]
        suited = [each for each in self._seen if SUITS.get(each[0].get("group", "")) in self._tunes]
        kinds: dict[Callable[[], Turn], Sequence[object]] = {
            self._answer: self._asked,
            self._draw: self._drawings,
            self._play: self._played,
            self._suit: suited,
        }
        self._suited = suited
        self.kinds = [draw for draw, there in kinds.items() if there]

    def draw(self) -> Turn:
        """A request and its reply."""
        return self._rng.choice(self.kinds)()

    def _answer(self) -> Turn:
        question, answer, thing = self._rng.choice(self._asked)
        _, codes = self._rng.choice(self._pictures[thing])
        request = (self._part(Modality.IMAGE, codes), self._heard(question))
        return request, (_transcript(question), text_part(answer), self._part(Modality.SPEECH, self._said[answer]))

    def _draw(self) -> Turn:
        text, thing = self._rng.choice(self._drawings)
        _, codes = self._rng.choice(self._pictures[thing])
        return (self._heard(text),), (_transcript(text), self._part(Modality.IMAGE, codes))

    def _play(self) -> Turn:
        text, tunes = self._rng.choice(self._played)
        row, codes = self._rng.choice(tunes)
        return (self._heard(text),), (
            _transcript(text),
            text_part(row["captions"][0]),
            self._part(Modality.MUSIC, codes),
        )

    def _suit(self) -> Turn:
        picture, seen = self._rng.choice(self._suited)
        row, codes = self._rng.choice(self._tunes[SUITS[picture["group"]]])
        request = (self._part(Modality.IMAGE, seen), text_part(self._rng.choice(texts.PLAY_FOR)))
        return request, (text_part(row["captions"][0]), self._part(Modality.MUSIC, codes))

    def _shown(self, text: str) -> str:
        """The label of the pictures that show what `text` names; empty if it names nothing that is shown."""
        for thing in THINGS:
            named = re.search(rf"\b(?:({'|'.join(COLOURS)}) )?{thing.name}\b", text)
            if named:
                labels = (f"{named[1] or thing.colour} {thing.name}", thing.name, f"{thing.name} face")
                return next((label for label in labels if label in self._pictures), "")
        return ""

    def _wanted(self, text: str) -> list[tuple[Row, Codes]]:
        dance = re.fullmatch(r"Play a (\w+) on the (\w+)\.", text)
        pace = re.fullmatch(r"Please play (\w+) music on the (\w+)\.", text)
        if dance:
            return self._tunes.get((dance[2], dance[1]), [])
        return self._tunes.get((pace[2], PACES.get(pace[1], "")), []) if pace else []

    def _heard(self, text: str) -> Part:
        return self._part(Modality.SPEECH, self._rng.choice(self._read[text]))

    def _part(self, modality: Modality, codes: Codes) -> Part:
        return code_part(modality, codes, self._vocabulary)


def _transcript(words: str) -> Part:
    return Part(Modality.TEXT, words, kind="transcript")
