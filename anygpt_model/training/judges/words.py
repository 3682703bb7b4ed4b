"""Word error rate: what was written down or heard against what was to be said. Knows no recogniser."""

from __future__ import annotations

from collections.abc import Sequence

from .bounds import Score, ratio, share

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SPELLINGS = {str(number): word for number, word in enumerate(NUMBERS)} | {
    "colour": "color",
    "grey": "gray",
    "cannot": "can not",
}
"""Different spellings of the same sounds: a listener can't know which was meant."""


def plain(text: str) -> str:
    """`text` as words are compared: lower case, no punctuation, one spelling, single spaces."""
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower())
    return " ".join(SPELLINGS.get(word, word) for word in kept.split())


def word_errors(expected: Sequence[str], heard: Sequence[str]) -> Score:
    """The word error rate over all pairs, with a bootstrap bound over the pairs. It can exceed 1."""
    counts = [_errors(plain(a), plain(b)) for a, b in zip(expected, heard, strict=True)]
    return ratio([errors for errors, _ in counts], [words for _, words in counts])


def same_words(expected: Sequence[str], heard: Sequence[str]) -> Score:
    """The share of pairs with exactly the same words."""
    return share([plain(a) == plain(b) for a, b in zip(expected, heard, strict=True)])


def told(questions: Sequence[str], answers: Sequence[str], heard: Sequence[str]) -> Score:
    """The share of answers that say what was asked for: all words of the right answer that the question has not."""
    return share([telling(q, a) <= set(plain(h).split()) for q, a, h in zip(questions, answers, heard, strict=True)])


def telling(question: str, answer: str) -> set[str]:
    """The words of an answer that its question has not: of "The apple is red." to "What colour is it?", apple and red.

    A verb's ending makes no other word of it.
    """
    known = {word.rstrip("s") for word in plain(question).split()}
    return {word for word in plain(answer).split() if word.rstrip("s") not in known}


def _errors(expected: str, heard: str) -> tuple[int, int]:
    """Substituted, missing and added words, and how many were expected."""
    words, other = expected.split(), heard.split()
    row = list(range(len(other) + 1))
    for i, word in enumerate(words, 1):
        before, row[0] = row[0], i
        for j, guess in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != guess))
    return row[-1], len(words)
