"""Puts the evaluation's prompts to an engine, many at once, and takes from each reply what was asked for.

Uses only what every caller has: the engine's vocabulary, language model and codecs. Knows no judge and no truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..dialogue import Message, format
from ..grammar import parse
from ..values import Bounds, Generation, Modality, Part, Request, Sampling
from .directions.direction import Array, Case, Made, Prompt

if TYPE_CHECKING:
    from ..engine import Engine

BATCH = 20
TEXT_TOKENS = 80
MEDIA_TOKENS = 900
SECONDS = 8.0
"""No held-out sentence is longer, and no piece of music may be."""
Progress = Callable[[int, int], None]


class Asker:
    """Asks one engine. sampling: instead of the engine's defaults, by modality."""

    def __init__(self, engine: Engine, sampling: Mapping[Modality, Sampling] | None = None, batch: int = BATCH) -> None:
        self._engine = engine
        self._sampling = {**engine.sampling, **(sampling or {})}
        self._batch = batch

    def answers(self, cases: Sequence[Case], progress: Progress | None = None) -> list[Made]:
        """What each case's prompt gets back: a text, a picture, a sound, or None. Seeds come from the cases' ids. Cases
        of one direction either all ask the language model or all don't."""
        made: list[Made] = []
        for start in range(0, len(cases), self._batch):
            group = cases[start : start + self._batch]
            if group[0].prompt.codec_alone:
                made += [self._remade(case.prompt) for case in group]
            else:
                replies = self._replies([case.prompt for case in group], [_seed(case) for case in group])
                made += [self._taken(case, reply) for case, reply in zip(group, replies, strict=True)]
            if progress is not None:
                progress(len(made), len(cases))
        return made

    def sample_rate(self, modality: Modality) -> int:
        """Samples a second of the sounds of `modality`; 0 where it makes none."""
        return 0 if modality == Modality.TEXT else self._engine.codec(modality).sample_rate

    def round_trip(self, modality: Modality, array: Array) -> Array:
        """A picture or a sound after our codec has encoded and decoded it."""
        codec = self._engine.codec(modality)
        return codec.decode(codec.encode(array))

    def _remade(self, prompt: Prompt) -> Made:
        """The prompt's sound from all levels of its codec, none of them guessed."""
        codec: Any = self._engine.codec(prompt.modality)  # of speech: its protocol has level 1 alone
        sound: Array = codec.wave(codec.all_levels(prompt.media)).cpu().numpy()
        return sound

    def _replies(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Sequence[Generation]:
        """What each prompt gets back, its earlier turns asked first."""
        first = [(prompt.earlier, seed) for prompt, seed in zip(prompts, seeds, strict=True) if prompt.earlier]
        before = iter(self._replies(*map(list, zip(*first, strict=True))) if first else ())
        requests = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            messages = [Message("user", tuple(self._parts(prompt)))]
            if prompt.earlier:
                said = Message("assistant", ids=next(before).ids)
                messages = [Message("user", tuple(self._parts(prompt.earlier))), said, *messages]
            ids = tuple(format(messages, self._engine.vocabulary))
            requests.append(Request(ids, seed, _bounds(prompt.to), self._sampling))
        return self._engine.language_model.generate(requests)

    def _parts(self, prompt: Prompt) -> Iterator[Part]:
        if prompt.media is not None:
            codes = self._engine.codec(prompt.modality).encode(prompt.media)
            yield Part(prompt.modality, span=self._engine.vocabulary.to_span(prompt.modality, codes))
        if prompt.text:
            yield Part(Modality.TEXT, text=prompt.text)

    def _taken(self, case: Case, reply: Generation) -> Made:
        """The first medium of the modality asked for, or all the text: of a chain, asked to write, what it heard."""
        parts = parse(reply.ids, self._engine.vocabulary)
        wanted = [part for part in parts if part.modality == case.prompt.to]
        if case.prompt.to == Modality.TEXT:
            heard = [part for part in wanted if part.kind == "transcript"]
            return " ".join(part.text or "" for part in heard or wanted)
        if not wanted or wanted[0].span is None:
            return None
        codes = self._engine.vocabulary.to_codes(wanted[0].span)
        options = {} if case.prompt.voice is None else {"voice": case.prompt.voice}
        return self._engine.codec(case.prompt.to).decode(codes, seed=_seed(case), **options)


def _bounds(to: Modality) -> Bounds:
    if to == Modality.TEXT:
        return Bounds(to, frozenset({Modality.TEXT}), TEXT_TOKENS)
    return Bounds(to, frozenset({Modality.TEXT, to}), MEDIA_TOKENS, SECONDS, max_segments=1)


def _seed(case: Case) -> int:
    return int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:4], "big")
