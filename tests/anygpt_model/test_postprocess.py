"""What the original cuts out of a decoded reply by strings, ours reads from the ids.

The two rules are written anew after the goldens; then replies of all kinds, decoded as the original decodes them, must
hold what our parser finds. Where the original gives less (only the last span of each medium), ours gives it and more.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anyloom.anygpt_model import dialogue
from anyloom.anygpt_model.dialogue import Message
from anyloom.anygpt_model.grammar import parse
from anyloom.anygpt_model.values import Modality, Part, Span
from anyloom.anygpt_model.vocabulary import Vocabulary

GOLDENS = Path(__file__).parents[1] / "goldens"
TINY = Vocabulary.from_folder(GOLDENS / "tiny_llama_tokenizer")
CASES = json.loads((GOLDENS / "postprocess.json").read_text())
MEDIA = (Modality.IMAGE, Modality.SPEECH, Modality.MUSIC)
LENGTHS = {Modality.IMAGE: (32,), Modality.SPEECH: (1, 5, 9), Modality.MUSIC: (4, 8, 20)}


def first_between(text: str, start: str, end: str) -> str:
    """The base model's rule: what follows the first `start`, up to the next `end` if anything stands before it."""
    if start not in text:
        return text
    rest = text.split(start, 1)[1]
    cut = rest.find(end)
    return rest[:cut].strip() if cut > 0 else rest


def last_between(text: str, start: str, end: str) -> str | None:
    """The chat model's rule: what stands between the last `start` and the last `end`."""
    begin, stop = text.rfind(start), text.rfind(end)
    return text[begin + len(start) : stop] if -1 < begin < stop else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['tag1']} {case['text'][:20]}")
def test_the_rules_are_the_originals(case: dict[str, Any]) -> None:
    tags = case["text"], case["tag1"], case["tag2"]
    assert first_between(*tags) == case["extract_text_between_tags"]
    assert last_between(*tags) == case["extract_content_between_final_tags"]


def decoded(ids: Sequence[int]) -> str:
    """As the original's tokenizer decodes: a blank around every added token, control ids left out."""
    shown: list[str] = []
    run: list[int] = []
    for token in [*ids, TINY.eos]:
        if token in TINY.text_ids:
            run.append(token)
            continue
        shown += [TINY.decode(run)] if run else []
        shown += [TINY.string(token)] if token > TINY.text_size - 1 else []
        run = []
    return " ".join(shown)


def numbers(content: str | None) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", content or "")))


def span(modality: Modality, draw: random.Random) -> Part:
    table = TINY.range(modality)
    count = draw.choice(LENGTHS[modality])
    ids = [table.start + draw.randrange(table.cardinality) + table.cardinality * (n % table.codebooks)
           for n in range(count)]  # fmt: skip
    return Part(modality, span=Span(modality, tuple(ids)))


def code_numbers(part: Part) -> tuple[int, ...]:
    assert part.span is not None
    return tuple(token - TINY.range(part.modality).start for token in part.span.ids)


@pytest.mark.parametrize("seed", range(20))
def test_a_base_reply_holds_the_same(seed: int) -> None:
    draw = random.Random(seed)
    to = draw.choice([Modality.TEXT, *MEDIA])
    words = " ".join(draw.choices(["a", "dog", "runs", "hello", "fast"], k=draw.randint(1, 6)))
    source = span(draw.choice(MEDIA), draw) if to is Modality.TEXT else Part(Modality.TEXT, words)
    target = Part(Modality.TEXT, words) if to is Modality.TEXT else span(to, draw)
    ids, _ = dialogue.format_base_example(source, target, TINY)
    reply = ids[len(dialogue.format_base(source, to, TINY)) :]
    [part] = parse(reply, TINY)
    if to is Modality.TEXT:
        assert part.text == first_between(decoded(ids), "[MMGPT] : ", "<eos>") == words
    else:
        table = TINY.range(to)
        found = first_between(decoded(ids), TINY.string(table.opening), TINY.string(table.closing))
        assert code_numbers(part) == numbers(found)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("template", ["MMGPT", "AnyGPT"])
def test_a_chat_reply_holds_the_same(seed: int, template: str) -> None:
    draw = random.Random(seed)
    kinds = draw.choices([Modality.TEXT, *MEDIA], k=draw.randint(1, 6))
    parts = tuple(Part(Modality.TEXT, "here it is") if kind is Modality.TEXT else span(kind, draw) for kind in kinds)
    asked = Message("user", (Part(Modality.TEXT, "draw a dog"), span(Modality.SPEECH, draw)))
    conversation = [asked, Message("assistant", (span(Modality.IMAGE, draw),)), asked]
    prompt = dialogue.format(conversation, TINY, template)
    whole, _ = dialogue.format_example([*conversation, Message("assistant", parts)], TINY, template)
    ours = parse(whole[len(prompt) :], TINY)
    style = dialogue.chat_template(template)
    theirs = last_between(decoded(whole), style.role, style.end)
    assert theirs is not None
    for kind in MEDIA:
        table = TINY.range(kind)
        last = numbers(last_between(theirs, TINY.string(table.opening), TINY.string(table.closing)))
        found = [code_numbers(part) for part in ours if part.modality is kind]
        assert (found or [()])[-1] == last
    spoken = re.sub(r"<so..>.*?<eo..>", "", theirs).split()
    assert " ".join([":", *(part.text or "" for part in ours if part.modality is Modality.TEXT)]).split() == spoken
