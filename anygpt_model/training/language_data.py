"""Chats to learn from, made of codes and captions: every direction, asked for in several ways, alone or a few in a row.

Sources are read as soon as the codecs' trainers have written them, so training may begin with what is there. What is
held out (pairs, concepts, sentences, voices, tunes) is never put into a training chat. Knows no network.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..dialogue import Message, format_example
from ..values import Modality, Part
from ..vocabulary import END_OF_REPLY, HUMAN, Vocabulary
from . import language_mixed as mixed
from . import language_texts as texts
from .image_teacher import TELLING
from .language_media import Codes, Media, Row, Turn, code_part, read_media, read_views, text_part
from .language_scenes import Scenes
from .sentences import held_out, qa_pairs, train_pairs
from .speech_data import DEFAULT_VOICE, MORE, TRAIN_VOICES

TALK = "text->text"
SPOKEN = "speech->speech"
MIXED = "mixed"
TO_DRAW, TO_NAME, TO_CHANGE = "a thing's codes", "a thing's name", "a thing's other style"
TO_COMPOSE, TO_TELL = "a scene's codes", "a scene's description"
TO_HEAR = "a tune's name"
LESSONS = (TO_DRAW, TO_NAME, TO_CHANGE, TO_COMPOSE, TO_TELL, TO_HEAR)
"""Lessons: exchanges without the system line and without a picture's codes that hardly vary. There are more things than
chats can show often enough, and a lesson costs a fifth of a chat."""
SHARES = {
    TO_DRAW: 0.04,
    TO_NAME: 0.07,
    TO_CHANGE: 0.03,
    TO_COMPOSE: 0.16,
    TO_TELL: 0.10,
    TO_HEAR: 0.05,
    "text->image": 0.03,
    "image->text": 0.05,
    "text->speech": 0.22,
    "speech->text": 0.10,
    "text->music": 0.05,
    "music->text": 0.02,
    SPOKEN: 0.06,
    MIXED: 0.01,
    TALK: 0.01,
}
"""How the ids seen in training are shared out among what is there."""
LENGTHS = {"text->image": 65, "image->text": 230, "text->speech": 190, "speech->text": 200, "text->music": 190}
LENGTHS |= {
    TO_DRAW: 24,
    TO_NAME: 26,
    TO_CHANGE: 48,
    TO_COMPOSE: 45,
    TO_TELL: 45,
    TO_HEAR: 170,
    "music->text": 200,
    SPOKEN: 330,
    MIXED: 400,
    TALK: 55,
}
"""Ids of a usual chat of each direction: what turns shares of ids into shares of chats."""
OWN_VIEWS = 0.75
"""Share of pictures shown in the tokenizer's own codes, once it has them; the others come in its teacher's."""
STRANGE = 0.3
"""Share of what is written down that one of the voices says that only few readings are by."""
MORE_SPOKEN = 0.4
"""Share of what is spoken that is a text for that alone; the others are the questions and answers of this world."""
SCENES = 0.3
"""Share of the pictures in chats that are scenes."""
CHANGED = 0.35
"""Share of what is composed that changes a picture drawn just before."""
CUT = TELLING + 5
"""Ids after which the drawing of a picture is often cut: the rest hardly varies."""
PICTURES = 4
"""Pictures named in one chat."""
CHAT_IDS = 640
"""No chat of several exchanges is longer."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its reply. longest: ids of the reply after which a chat of this exchange alone is cut, where what
    follows teaches little: the tail of a drawing hardly varies, and of a tune it is more of the same."""

    request: tuple[Part, ...]
    reply: tuple[Part, ...]
    direction: str
    longest: int = 10_000


@dataclass(frozen=True, slots=True)
class Example:
    """ids [n], and for each id whether the loss counts it."""

    ids: NDArray[np.int32]
    counted: NDArray[np.bool_]
    direction: str


class Chats:
    """Draws training chats from what `work` holds; `refresh` looks again."""

    def __init__(self, work: Path, vocabulary: Vocabulary, seed: int) -> None:
        self.work, self.vocabulary = work, vocabulary
        self.rng = random.Random(seed)
        self._stamps: dict[Modality, float] = {}
        self.media: dict[Modality, Media] = {}
        self._views: NDArray[np.int64] | None = None
        self._views_stamp = 0.0
        self.refresh()

    def refresh(self) -> bool:
        """Read what has been written since; True if there was anything new."""
        fresh = False
        for modality in (Modality.IMAGE, Modality.SPEECH, Modality.MUSIC):
            path = self.work / modality.value / "tokens.json"
            stamp = path.stat().st_mtime if path.exists() else 0.0
            if stamp != self._stamps.get(modality):
                self.media[modality] = read_media(self.work, modality)
                self._stamps[modality] = stamp
                fresh = True
        fresh |= self._look_again()
        if fresh:
            self._index()
        return fresh

    def _look_again(self) -> bool:
        path = self.work / Modality.IMAGE.value / "views.npz"
        stamp = path.stat().st_mtime if path.exists() else 0.0
        changed, self._views_stamp = stamp != self._views_stamp, stamp
        if changed:
            self._views = read_views(self.work)
        return changed

    def _index(self) -> None:
        self._drawn: dict[str, list[tuple[Row, Codes]]] = {}
        for row, codes in self.media[Modality.IMAGE].train:
            self._drawn.setdefault(row["concept"], []).append((row, codes))
        self._scenes = Scenes(self.media[Modality.IMAGE].train, self._looked_at, self.vocabulary, self.rng)
        self._changed = [rows for rows in self._drawn.values() if len(rows) > 1]
        self._read: dict[str, list[Codes]] = {}
        self._voices: dict[tuple[str, float], list[tuple[Row, Codes]]] = {}
        self._more = [each for each in self.media[Modality.SPEECH].train if each[0]["group"] == MORE]
        self._heard = [each for each in self.media[Modality.SPEECH].train if each[0]["group"] != MORE]
        for row, codes in self._heard:
            self._read.setdefault(row["text"], []).append(codes)
            self._voices.setdefault((row["voice"], row["speed"]), []).append((row, codes))
        # Many voices are listened to, one is spoken with: it says the same words the same way.
        own = self._voices.get((DEFAULT_VOICE, 1.0), [])
        self._said = {row["text"]: codes for row, codes in own}
        self._strange = [each for each in self._heard if each[0]["voice"] not in TRAIN_VOICES]
        pairs = train_pairs()
        self._spoken = [pair for pair in pairs if pair[0] in self._read and pair[1] in self._said]
        self._voiced = [pair for pair in pairs if pair[1] in self._said]
        self._typed = [(q, a) for q, a, _ in pairs]
        self._mixed = mixed.Mixed(self.media, self._read, self._said, pairs, self.vocabulary, self.rng)
        there = {
            TO_DRAW: self.media[Modality.IMAGE].train,
            TO_NAME: self.media[Modality.IMAGE].train,
            TO_CHANGE: self._changed,
            TO_COMPOSE: self.media[Modality.IMAGE].train,
            TO_TELL: self.media[Modality.IMAGE].train,
            TO_HEAR: self.media[Modality.MUSIC].train,
            "text->image": self.media[Modality.IMAGE].train,
            "image->text": self.media[Modality.IMAGE].train,
            "text->speech": own,
            "speech->text": self._heard,
            "text->music": self.media[Modality.MUSIC].train,
            "music->text": self.media[Modality.MUSIC].train,
            SPOKEN: self._spoken,
            MIXED: self._mixed.kinds,
            TALK: self._typed,
        }
        self.directions = [name for name, rows in there.items() if rows]
        self._weights = [SHARES[name] / LENGTHS[name] for name in self.directions]
        self._chatted = [name for name in self.directions if name not in LESSONS]
        self._chat_weights = [SHARES[name] / LENGTHS[name] for name in self._chatted]

    def draw(self, count: int) -> Iterator[Example]:
        """`count` chats: a third are one exchange, the others two or three that share a system line and CHAT_IDS."""
        for _ in range(count):
            direction = self.rng.choices(self.directions, self._weights)[0]
            if direction in LESSONS:
                yield self._lesson(direction)
                continue
            wanted = self.rng.choices((1, 2, 3), (0.3, 0.35, 0.35))[0]
            exchanges = self._exchanges(direction)
            while len(exchanges) < wanted and sum(LENGTHS[each.direction] for each in exchanges) < CHAT_IDS // 2:
                exchanges = [*exchanges, *self._exchanges(self.rng.choices(self._chatted, self._chat_weights)[0])]
            yield self.example(exchanges)

    def example(self, exchanges: Sequence[Exchange]) -> Example:
        """A chat as ids and mask, cut where an exchange says."""
        messages = [message for each in exchanges for message in _messages(each)]
        ids, counted = format_example(messages, self.vocabulary)
        longest = counted.index(True) + exchanges[0].longest if len(exchanges) == 1 else CHAT_IDS
        made = np.array(ids[:longest], np.int32), np.array(counted[:longest], np.bool_)
        return Example(*made, exchanges[0].direction)

    def held_out(self, limit: int) -> dict[str, list[Example]]:
        """Up to `limit` single exchanges a direction with what training never sees, asked in the first phrasing."""
        found = {
            "text->image": [self._draw(row, codes, 0, 1) for row, codes in self.media[Modality.IMAGE].test],
            "image->text": [self._see(row, codes, 0) for row, codes in self.media[Modality.IMAGE].test],
            "text->speech": [
                self._speak(row, codes, 0)
                for row, codes in self.media[Modality.SPEECH].test
                if row["voice"] == DEFAULT_VOICE
            ],
            "speech->text": [self._write(row, codes, 0) for row, codes in self.media[Modality.SPEECH].test],
            "text->music": [self._play(row, codes, 0, 0) for row, codes in self.media[Modality.MUSIC].test],
            "music->text": [self._listen(row, codes, 0) for row, codes in self.media[Modality.MUSIC].test],
            TALK: [_exchange([text_part(q)], [text_part(a)], TALK) for q, a, _ in qa_pairs() if held_out(q)],
            SPOKEN: list(self._held_out_answers()),
        }
        shuffled = random.Random(0)
        picked = {name: shuffled.sample(rows, min(limit, len(rows))) for name, rows in found.items() if rows}
        return {name: [self.example([each]) for each in rows] for name, rows in picked.items()}

    def _held_out_answers(self) -> Iterator[Exchange]:
        speech = self.media[Modality.SPEECH]
        spoken = {row["text"]: codes for row, codes in (*speech.train, *speech.test) if row["voice"] == DEFAULT_VOICE}
        for question, answer, _ in qa_pairs():
            if held_out(question) and question in spoken and answer in spoken:
                yield self._answer(question, spoken[question], answer, spoken[answer])

    def _lesson(self, direction: str) -> Example:
        """Bare exchanges. Of a picture stay its TELLING codes; one that is to be drawn ends with them."""
        ids, counted = (
            np.array(column) for column in format_example(
                [message for each in self._taught(direction) for message in _messages(each)], self.vocabulary
            )
        )  # fmt: skip
        table = self.vocabulary.range(Modality.IMAGE)
        codes = (ids >= table.start) & (ids < table.stop)
        places = np.arange(len(ids))
        opened = np.maximum.accumulate(np.where(ids == table.opening, places, 0))
        kept = ~codes | (places - opened <= TELLING)
        kept[: int(np.flatnonzero(ids == self.vocabulary.id(HUMAN))[0])] = False
        if direction in (TO_DRAW, TO_CHANGE, TO_COMPOSE):
            # What follows the last code that is kept would be learnt as the end of a picture of so few codes.
            counted &= (ids != table.closing) & (ids != self.vocabulary.id(END_OF_REPLY))
            kept[int(np.flatnonzero(codes & kept)[-1]) + 1 :] = False
        return Example(ids[kept].astype(np.int32), counted[kept].astype(np.bool_), direction)

    def _taught(self, direction: str) -> list[Exchange]:
        if direction == TO_HEAR:
            return [self._listen(*self.rng.choice(self.media[Modality.MUSIC].train))]
        if direction == TO_CHANGE:
            (row, codes), other = self.rng.sample(self.rng.choice(self._changed), 2)
            return [self._draw(row, codes), self._change(*other)]
        if direction == TO_COMPOSE:
            return self._composing()
        if direction == TO_TELL:
            return _exchanged(self._scenes.described(), "image->text")
        row, codes = self.rng.choice(self.media[Modality.IMAGE].train)
        return [self._draw(row, codes) if direction == TO_DRAW else self._see(row, codes)]

    def _exchanges(self, direction: str) -> list[Exchange]:
        if direction == "text->image":
            return self._composing() if self.rng.random() < SCENES else self._drawing()
        if direction == "image->text":
            # Names are many and short: several pictures share a system line.
            return [each for _ in range(PICTURES) for each in self._seeing()]
        if direction == "text->speech":
            return [self._speaking()]
        if direction == "speech->text":
            strange = self._strange and self.rng.random() < STRANGE
            row, _ = heard = self.rng.choice(self._strange if strange else self._heard)
            return [self._write(*self._continued(heard, self._voices[row["voice"], row["speed"]]))]
        if direction == "text->music":
            return [self._play(*self.rng.choice(self.media[Modality.MUSIC].train))]
        if direction == "music->text":
            return [self._listen(*self.rng.choice(self.media[Modality.MUSIC].train))]
        if direction == SPOKEN:
            question, answer, _ = self.rng.choice(self._spoken)
            return [self._answer(question, self.rng.choice(self._read[question]), answer, self._said[answer])]
        if direction == MIXED:
            return [Exchange(*self._mixed.draw(), MIXED)]
        return [self._talk()]

    def _seeing(self) -> list[Exchange]:
        if self.rng.random() < SCENES:
            return _exchanged(self._scenes.described(), "image->text")
        return [self._see(*self.rng.choice(self.media[Modality.IMAGE].train))]

    def _composing(self) -> list[Exchange]:
        composed = self._scenes.changed() if self.rng.random() < CHANGED else self._scenes.drawn()
        return _exchanged(composed, "text->image")

    def _looked_at(self, row: Row, codes: Codes) -> Codes:
        """The codes of a picture as the tokenizer sees it, or now and then as its teacher has them."""
        if self._views is None or self.rng.random() >= OWN_VIEWS:
            return codes
        views: Codes = self._views[row["row"]]
        number = self.rng.randrange(len(views))
        return views[number : number + 1]

    def _drawing(self) -> list[Exchange]:
        row, codes = self.rng.choice(self.media[Modality.IMAGE].train)
        first = self._draw(row, codes)
        chance = self.rng.random()
        others = [other for other in self._drawn[row["concept"]] if other[0]["style"] != row["style"]]
        if chance < 0.2 and others:
            return [first, self._change(*self.rng.choice(others))]
        if chance < 0.5:
            # Naming what it drew costs a tenth of a picture's ids, and teaches the same codes the other way round.
            asked = self.rng.choice(texts.WHAT_DID_YOU_DRAW)
            return [first, _exchange([text_part(asked)], [text_part(row["phrase"])], "image->text")]
        return [first]

    def _draw(self, row: Row, codes: Codes, phrasing: int | None = None, caption: int | None = None) -> Exchange:
        words = row["captions"][caption] if caption is not None else self.rng.choice(row["captions"])
        asked = self._phrased(texts.DRAW, phrasing).format(x=words)
        longest = self.rng.choice((CUT, CUT, 10_000)) if phrasing is None else 10_000
        return _exchange([text_part(asked)], [self._part(Modality.IMAGE, codes)], "text->image", longest)

    def _change(self, row: Row, codes: Codes) -> Exchange:
        asked = self.rng.choice((*texts.RESTYLE, texts.RESTYLE[0])).format(style=row["style"])
        return _exchange([text_part(asked)], [self._part(Modality.IMAGE, codes)], "text->image")

    def _see(self, row: Row, codes: Codes, phrasing: int | None = None) -> Exchange:
        asked = self._phrased(texts.DESCRIBE, phrasing)
        if phrasing is None:
            codes = self._looked_at(row, codes)
        elif self._views is not None:
            codes = self._views[row["row"]][:1]
        styled = asked.lower().startswith("describe") and phrasing is None
        words = row["captions"][1] if styled else row["phrase"]
        return _exchange([self._part(Modality.IMAGE, codes), text_part(asked)], [text_part(words)], "image->text")

    def _speaking(self) -> Exchange:
        if self._voiced and self.rng.random() < 0.15:
            question, answer, _ = self.rng.choice(self._voiced)
            asked = self.rng.choice(texts.ANSWER_ALOUD).format(x=question)
            spoken = self._part(Modality.SPEECH, self._said[answer])
            return _exchange([text_part(asked)], [text_part(answer), spoken], "text->speech")
        own = self._more if self._more and self.rng.random() < MORE_SPOKEN else self._voices[DEFAULT_VOICE, 1.0]
        return self._speak(*self._continued(self.rng.choice(own), own))

    def _continued(self, first: tuple[Row, Codes], same: list[tuple[Row, Codes]]) -> tuple[Row, Codes]:
        """A reading, or two of the same voice and speed after one another: words must be found wherever they stand."""
        row, codes = first
        if self.rng.random() > 0.2:
            return row, codes
        second, more = self.rng.choice(same)
        return {**row, "text": f"{row['text']} {second['text']}"}, np.concatenate([codes, more], axis=1)

    def _speak(self, row: Row, codes: Codes, phrasing: int | None = None) -> Exchange:
        asked = self._phrased(texts.SPEAK, phrasing).format(x=row["text"])
        return _exchange([text_part(asked)], [self._part(Modality.SPEECH, codes)], "text->speech")

    def _write(self, row: Row, codes: Codes, phrasing: int | None = None) -> Exchange:
        asked = self._phrased(texts.TRANSCRIBE, phrasing)
        return _exchange(
            [self._part(Modality.SPEECH, codes), text_part(asked)], [text_part(row["text"])], "speech->text"
        )

    def _play(self, row: Row, codes: Codes, phrasing: int | None = None, caption: int | None = None) -> Exchange:
        words = row["captions"][caption] if caption is not None else self.rng.choice(row["captions"])
        asked = self._phrased(texts.PLAY, phrasing).format(x=words)
        longest = self.rng.choice((120, 10_000, 10_000)) if phrasing is None else 10_000
        return _exchange([text_part(asked)], [self._part(Modality.MUSIC, codes)], "text->music", longest)

    def _listen(self, row: Row, codes: Codes, phrasing: int | None = None) -> Exchange:
        asked = self._phrased(texts.LISTEN, phrasing)
        if phrasing is None:
            frames = self.rng.randint(codes.shape[1] // 2, codes.shape[1])
            start = self.rng.randint(0, codes.shape[1] - frames)
            codes = codes[:, start : start + frames]
        return _exchange(
            [self._part(Modality.MUSIC, codes), text_part(asked)], [text_part(row["captions"][0])], "music->text"
        )

    def _answer(self, question: str, asked: Codes, answer: str, said: Codes) -> Exchange:
        heard = Part(Modality.TEXT, question, kind="transcript")
        reply = [heard, text_part(answer), self._part(Modality.SPEECH, said)]
        return _exchange([self._part(Modality.SPEECH, asked)], reply, SPOKEN)

    def _talk(self) -> Exchange:
        chance = self.rng.random()
        images = self.media[Modality.IMAGE].train
        if chance < 0.2:
            question, answer = self.rng.choice(texts.GREETINGS)
        elif chance < 0.45 and images:
            row, _ = self.rng.choice(images)
            question = self.rng.choice(texts.ABOUT).format(x=row["phrase"])
            answer = texts.about(row)
        else:
            question, answer = self.rng.choice(self._typed)
            question = self.rng.choice(list(texts.loosened(question)))
        return _exchange([text_part(question)], [text_part(answer)], TALK)

    def _phrased(self, phrasings: Sequence[str], number: int | None) -> str:
        """A phrasing by number, or one drawn at random."""
        return self.rng.choice(texts.first_often(phrasings)) if number is None else phrasings[number]

    def _part(self, modality: Modality, codes: Codes) -> Part:
        return code_part(modality, codes, self.vocabulary)


def _exchange(request: Sequence[Part], reply: Sequence[Part], direction: str, longest: int = 10_000) -> Exchange:
    return Exchange(tuple(request), tuple(reply), direction, longest)


def _exchanged(turns: Sequence[Turn], direction: str) -> list[Exchange]:
    return [_exchange(*turn, direction) for turn in turns]


def _messages(exchange: Exchange) -> tuple[Message, Message]:
    return Message("user", exchange.request), Message("assistant", exchange.reply)
