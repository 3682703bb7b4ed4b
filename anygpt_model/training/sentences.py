"""The spoken world: a closed set of sentences over about 230 words, so that a small model hears every word often.

Three kinds of text: questions with answers (facts and small talk), captions of things, and requests to draw or play.
Every fact is told in several phrasings, so a held-out phrasing asks for something that training has said in another.
The split is by hash of the text, stable for ever. Knows nothing of voices, audio or tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

HELD_OUT_SHARE = 0.135
CAPTIONS = 1500
REQUESTS = 300
MORE = 6000
"""Texts beside, for the voice that is spoken with: from the 2,600 others alone a model learns to repeat them."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of the world and what is known about it; an empty string means that nothing is said."""

    name: str
    colour: str
    kind: str
    place: str = ""
    sound: str = ""
    taste: str = ""
    feel: str = ""

    @property
    def named(self) -> str:
        """The name with its article: "an apple"."""
        return f"{article(self.name)} {self.name}"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text to be spoken; `split` is "train" or "test", `group` names the kind of text."""

    text: str
    split: str
    group: str


THINGS = (
    Thing("apple", "red", "fruit", taste="sweet"),
    Thing("banana", "yellow", "fruit", taste="sweet"),
    Thing("lemon", "yellow", "fruit", taste="sour"),
    Thing("cherry", "red", "fruit", taste="sweet"),
    Thing("carrot", "orange", "vegetable", taste="good"),
    Thing("tomato", "red", "vegetable", taste="good"),
    Thing("cake", "pink", "food", taste="sweet"),
    Thing("bread", "brown", "food", taste="good"),
    Thing("cheese", "yellow", "food", taste="good"),
    Thing("egg", "white", "food", taste="good"),
    Thing("milk", "white", "food", taste="good", feel="cold"),
    Thing("cat", "black", "animal", "in the house", "meow", feel="soft"),
    Thing("dog", "brown", "animal", "in the house", "woof", feel="soft"),
    Thing("cow", "white", "animal", "on the farm", "moo"),
    Thing("pig", "pink", "animal", "on the farm", "oink"),
    Thing("sheep", "white", "animal", "on the farm", "baa", feel="soft"),
    Thing("horse", "brown", "animal", "on the farm", "neigh"),
    Thing("duck", "yellow", "animal", "in the water", "quack"),
    Thing("frog", "green", "animal", "in the water", "ribbit"),
    Thing("fish", "blue", "animal", "in the water"),
    Thing("lion", "yellow", "animal", "in the forest", "roar"),
    Thing("bear", "brown", "animal", "in the forest", "growl"),
    Thing("owl", "brown", "animal", "in the forest", "hoot"),
    Thing("snake", "green", "animal", "in the forest", "hiss"),
    Thing("monkey", "brown", "animal", "in the tree"),
    Thing("bird", "blue", "animal", "in the tree", "tweet"),
    Thing("bee", "yellow", "animal", "in the flower", "buzz"),
    Thing("mouse", "grey", "animal", "in the house", "squeak"),
    Thing("rabbit", "white", "animal", "in the garden", feel="soft"),
    Thing("car", "red", "machine", "on the street"),
    Thing("bus", "yellow", "machine", "on the street"),
    Thing("train", "green", "machine"),
    Thing("boat", "blue", "machine", "in the water"),
    Thing("rocket", "white", "machine", "in the sky"),
    Thing("tree", "green", "plant", "in the garden"),
    Thing("flower", "pink", "plant", "in the garden"),
    Thing("rose", "red", "plant", "in the garden"),
    Thing("sun", "yellow", "star", "in the sky", feel="hot"),
    Thing("moon", "white", "", "in the sky", feel="cold"),
    Thing("cloud", "grey", "", "in the sky", feel="soft"),
    Thing("snow", "white", "", feel="cold"),
    Thing("fire", "orange", "", feel="hot"),
    Thing("ball", "red", "toy"),
    Thing("robot", "grey", "machine"),
    Thing("house", "red", "building", "on the street"),
    Thing("book", "blue", ""),
    Thing("key", "yellow", ""),
    Thing("hat", "black", ""),
    Thing("heart", "red", ""),
)
MASS = frozenset({"bread", "cheese", "milk", "snow", "fire", "sheep", "fish", "sun", "moon"})
"""Names without a plural here, or that take no article in the captions' plurals."""
COLOURS = ("red", "yellow", "green", "blue", "orange", "pink", "brown", "black", "white", "grey")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("happy", "sad"),
    ("fast", "slow"),
    ("black", "white"),
    ("day", "night"),
)
INSTRUMENTS = ("piano", "violin", "guitar", "flute", "trumpet", "harp")
DANCES = ("waltz", "jig", "reel", "march")
PACE = ("slow", "fast", "happy", "sad")
PLACES = ("on the table", "under the table", "in the garden", "in the house", "on the street", "in the tree")
SKILLS = (
    ("bird", "fly", True),
    ("fish", "swim", True),
    ("duck", "swim", True),
    ("horse", "run", True),
    ("frog", "jump", True),
    ("rabbit", "jump", True),
    ("bee", "fly", True),
    ("owl", "fly", True),
    ("rocket", "fly", True),
    ("dog", "run", True),
    ("cow", "fly", False),
    ("pig", "fly", False),
    ("fish", "run", False),
    ("tree", "run", False),
    ("book", "swim", False),
    ("cake", "jump", False),
    ("house", "fly", False),
    ("snake", "run", False),
)
LEGS = (
    ("cat", "four"),
    ("dog", "four"),
    ("cow", "four"),
    ("horse", "four"),
    ("pig", "four"),
    ("sheep", "four"),
    ("bird", "two"),
    ("duck", "two"),
    ("owl", "two"),
    ("bee", "six"),
    ("fish", "zero"),
    ("snake", "zero"),
)
SMALL_TALK = (
    ("Hello, how are you?", "I am fine, thank you."),
    ("How are you today?", "I am very happy today."),
    ("Are you happy?", "Yes, I am very happy."),
    ("What is your name?", "My name is Anyloom."),
    ("Who are you?", "I am Anyloom, a small robot."),
    ("Hello, what is your name?", "Hello, my name is Anyloom."),
    ("Good morning.", "Good morning to you."),
    ("Good night.", "Good night to you."),
    ("Hello.", "Hello, how are you?"),
    ("Thank you.", "You are welcome."),
    ("Thank you very much.", "You are very welcome."),
    ("Goodbye.", "Goodbye, my friend."),
    ("Can you draw?", "Yes, I can draw and I can play music."),
    ("Can you play music?", "Yes, I can play the piano."),
    ("Can you speak?", "Yes, I can speak to you."),
    ("Do you like music?", "Yes, I like music very much."),
    ("Do you like cake?", "Yes, I like sweet cake."),
    ("What do you like?", "I like music and flowers."),
    ("Are you a robot?", "Yes, I am a small robot."),
    ("Are you my friend?", "Yes, I am your friend."),
)


def article(name: str) -> str:
    """ "a" or "an" before `name`."""
    return "an" if name[0] in "aeiou" else "a"


def plural(name: str) -> str:
    """The plural of a thing's name."""
    if name.endswith(("s", "x")) or name == "tomato":
        return name + "es"
    return {"cherry": "cherries", "mouse": "mice"}.get(name, name + "s")


def held_out(text: str) -> bool:
    """Whether the hash of `text` falls into the held-out share: the same answer on every machine, for ever."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def order(text: str, salt: str) -> bytes:
    """A key that shuffles texts the same way everywhere."""
    return hashlib.sha256(f"{salt}|{text}".encode()).digest()


def _colour_pairs(thing: Thing) -> Iterator[tuple[str, str, str]]:
    name, told = thing.name, f"The {thing.name} is {thing.colour}."
    for asked in (
        f"What colour is the {name}?",
        f"Which colour is the {name}?",
        f"Tell me the colour of the {name}.",
        f"Do you know what colour the {name} is?",
    ):
        yield asked, told, "colour"
    yield f"Is the {name} {thing.colour}?", f"Yes, the {name} is {thing.colour}.", "colour"
    other = COLOURS[(COLOURS.index(thing.colour) + 1 + len(name)) % len(COLOURS)]
    if other != thing.colour:
        yield f"Is the {name} {other}?", f"No, the {name} is {thing.colour}.", "colour"


def _place_pairs(thing: Thing) -> Iterator[tuple[str, str, str]]:
    name, place = thing.name, thing.place
    if thing.kind == "animal":
        told = f"The {name} lives {place}."
        questions = (f"Where does the {name} live?", f"Do you know where the {name} lives?")
    else:
        told = f"The {name} is {place}."
        questions = (f"Where is the {name}?", f"Do you know where the {name} is?")
    for asked in (*questions, f"Where can I find the {name}?"):
        yield asked, told, "place"


def _kind_pairs(thing: Thing) -> Iterator[tuple[str, str, str]]:
    a_name = thing.name if thing.name in ("bread", "cheese", "milk") else thing.named
    a_kind = "food" if thing.kind == "food" else f"{article(thing.kind)} {thing.kind}"
    told = f"{a_name.capitalize()} is {a_kind}."
    for asked in (f"What is {a_name}?", f"Tell me what {a_name} is.", f"Do you know what {a_name} is?"):
        yield asked, told, "kind"
    yield f"Is {a_name} {a_kind}?", f"Yes, {a_name} is {a_kind}.", "kind"


def _thing_pairs(thing: Thing) -> Iterator[tuple[str, str, str]]:
    name = thing.name
    yield from _colour_pairs(thing)
    if thing.sound:
        told = f"The {name} says {thing.sound}."
        yield f"What does the {name} say?", told, "sound"
        yield f"Do you know what the {name} says?", told, "sound"
        yield f"Who says {thing.sound}?", told, "sound"
        yield f"Which animal says {thing.sound}?", told, "sound"
    if thing.place:
        yield from _place_pairs(thing)
    if thing.kind:
        yield from _kind_pairs(thing)
    for property_, group, asked in ((thing.taste, "taste", "taste"), (thing.feel, "feel", "feel")):
        if property_:
            told = f"The {name} is {property_}."
            yield f"How does the {name} {asked}?", told, group
            yield f"Do you know how the {name} {asked}s?", told, group
            yield f"Is the {name} {property_}?", f"Yes, the {name} is {property_}.", group


def _sums() -> Iterator[tuple[str, str, str]]:
    for a, b in itertools.product(range(1, 6), range(1, 6)):
        if a + b <= 10:
            left = f"{NUMBERS[a]} plus {NUMBERS[b]}"
            for asked in (f"What is {left}?", f"How much is {left}?", f"Tell me what {left} is."):
                yield asked, f"{left.capitalize()} is {NUMBERS[a + b]}.", "sum"


def _other_pairs() -> Iterator[tuple[str, str, str]]:
    for name, skill, can in SKILLS:
        told = f"Yes, {article(name)} {name} can {skill}." if can else f"No, {article(name)} {name} can not {skill}."
        yield f"Can {article(name)} {name} {skill}?", told, "skill"
        yield f"Tell me, can {article(name)} {name} {skill}?", told, "skill"
    for name, number in LEGS:
        for asked in (f"How many legs does the {name} have?", f"Tell me how many legs the {name} has."):
            yield asked, f"The {name} has {number} legs.", "legs"
    for a, b in OPPOSITES:
        for one, other in ((a, b), (b, a)):
            told = f"The opposite of {one} is {other}."
            yield f"What is the opposite of {one}?", told, "opposite"
            yield f"Tell me the opposite of {one}.", told, "opposite"
    for question, answer in SMALL_TALK:
        yield question, answer, "chat"


@cache
def qa_pairs() -> list[tuple[str, str, str]]:
    """Every (question, answer, group) of the world; questions are unique, group is the kind of question."""
    pairs = [*itertools.chain.from_iterable(map(_thing_pairs, THINGS)), *_sums(), *_other_pairs()]
    return list({question: (question, answer, group) for question, answer, group in pairs}.values())


def train_pairs() -> list[tuple[str, str, str]]:
    """The pairs whose question may be trained on."""
    return [pair for pair in qa_pairs() if pair[2] == "chat" or not held_out(pair[0])]


def test_pairs() -> list[tuple[str, str, str]]:
    """The pairs whose question is kept for testing."""
    return [pair for pair in qa_pairs() if pair[2] != "chat" and held_out(pair[0])]


def _all_captions() -> Iterator[str]:
    for thing, colour in itertools.product(THINGS, COLOURS):
        for opening in ("I see", "This is", "Here is"):
            yield f"{opening} {article(colour)} {colour} {thing.name}."
        if thing.name not in MASS:
            number = NUMBERS[2 + (len(thing.name) + len(colour)) % 9]
            yield f"I see {number} {colour} {plural(thing.name)}."
    for thing, place in itertools.product(THINGS, PLACES):
        if place != thing.place and thing.kind not in ("star", "building", "") and thing.name not in place:
            yield f"The {thing.name} is {place}."
            yield f"I see {thing.named} {place}."
    for a, b in itertools.combinations(THINGS, 2):
        if order(a.name + b.name, "pair")[0] < 40:
            yield f"I see {a.named} and {b.named}."


@cache
def captions() -> list[str]:
    """A fixed choice of captions and statements about things, shuffled."""
    return sorted(set(_all_captions()), key=lambda text: order(text, "captions"))[:CAPTIONS]


def _all_requests() -> Iterator[str]:
    for thing, colour in itertools.product(THINGS, COLOURS):
        yield f"Please draw {article(colour)} {colour} {thing.name}."
    for instrument, dance in itertools.product(INSTRUMENTS, DANCES):
        yield f"Play a {dance} on the {instrument}."
    for instrument, pace in itertools.product(INSTRUMENTS, PACE):
        yield f"Please play {pace} music on the {instrument}."


@cache
def requests() -> list[str]:
    """A fixed choice of spoken requests for a picture or for music, shuffled."""

    def key(text: str) -> bytes:
        return order(text, "requests")

    every = sorted(set(_all_requests()), key=key)
    music = [text for text in every if "draw" not in text]
    drawing = [text for text in every if "draw" in text]
    return sorted([*music[: REQUESTS // 2], *drawing[: REQUESTS // 2]], key=key)


@cache
def utterances() -> list[Utterance]:
    """Every text that is spoken, once each, shuffled.

    What a trained question is answered with is trained, and so is a text with a word that nothing trained has.
    """
    trained = {text for question, answer, _ in train_pairs() for text in (question, answer)}
    groups: dict[str, str] = {}
    for question, answer, group in qa_pairs():
        groups.setdefault(question, f"question-{group}")
        groups.setdefault(answer, f"answer-{group}")
    groups |= {text: "caption" for text in captions() if text not in groups}
    groups |= dict.fromkeys(requests(), "request")
    asked = {text for question, answer, _ in test_pairs() for text in (question, answer)}
    trained |= {text for text in groups if text not in asked and not held_out(text)}
    known = {word for text in trained for word in words(text)}
    trained |= {text for text in groups if not known.issuperset(words(text))}
    shuffled = sorted(groups, key=lambda text: order(text, "spoken"))
    return [Utterance(text, "train" if text in trained else "test", groups[text]) for text in shuffled]


def _more() -> Iterator[str]:
    yield from _all_captions()
    yield from _all_requests()
    for thing, colour in itertools.product(THINGS, COLOURS):
        named = f"{article(colour)} {colour} {thing.name}"
        yield f"Where is the {colour} {thing.name}?"
        yield f"Is this {named}?"
        yield f"Do you like the {colour} {thing.name}?"
        for place in PLACES:
            if thing.name not in place:
                yield f"The {colour} {thing.name} is {place}."
                yield f"I see {named} {place}."
        if thing.name not in MASS:
            yield from (f"I see {number} {colour} {plural(thing.name)}." for number in NUMBERS[2:])
            yield from (f"Here are {number} {colour} {plural(thing.name)}." for number in NUMBERS[2:])
    for a, b in itertools.permutations(THINGS, 2):
        yield f"I see {a.named} and {b.named}."
        yield f"Is it {a.named} or {b.named}?"


@cache
def more() -> list[str]:
    """A fixed choice of further texts to train on, of words that `utterances` trains, shuffled; none is held out."""
    spoken = utterances()
    known = {word for each in spoken if each.split == "train" for word in words(each.text)}
    taken = {each.text for each in spoken}
    fresh = {text for text in _more() if text not in taken and not held_out(text) and known.issuperset(words(text))}
    return sorted(fresh, key=lambda text: order(text, "more"))[:MORE]


def sentences() -> list[str]:
    """The texts of `utterances`, in their order."""
    return [utterance.text for utterance in utterances()]


def words(text: str) -> list[str]:
    """`text` in lower case without punctuation, as the word error rate counts."""
    return "".join(c if c.isalpha() or c == "'" else " " for c in text.lower()).split()
