"""A small engine whose language model says what a test scripts, through the real vocabulary and grammar."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import sentencepiece

from anyloom.anygpt_model.grammar import render
from anyloom.anygpt_model.legality import Grammar
from anyloom.anygpt_model.modalities import REGISTRY
from anyloom.anygpt_model.values import Generation, Modality, Part, Request, Span
from anyloom.anygpt_model.vocabulary import Vocabulary
from anyloom.storage.store import Store, memory_store

CODES = 16
SENTENCES = ["draw a red apple", "what is this", "play a tune for me", "hello there friend", "here it is"]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Byte pieces, a few words, and 16 codes a codebook."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    strings = ["[Human]", "[MMGPT]", "<eoh>", "<eos>"]
    for spec in REGISTRY:
        strings += [spec.code_token(n) for n in range(CODES * spec.codebooks)] + [spec.opening, spec.closing]
    strings += ["<eom>", "[AnyGPT]", "<-Res->", "<-Ins->"]
    return Vocabulary(pieces, {string: len(pieces) + n for n, string in enumerate(strings)})


class FakeCodec:
    """Codes are a function of the content's mean; arrays are a function of codes and seed."""

    cardinality = CODES

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self.num_codebooks = 4 if modality is Modality.MUSIC else 1
        self.sample_rate = 0 if modality is Modality.IMAGE else 16_000
        self.frame_rate = 0.0 if modality is Modality.IMAGE else 10.0
        self.encoded = self.decoded = 0

    def encode(self, array: Any) -> Any:
        self.encoded += 1
        frames = 32 if self.modality is Modality.IMAGE else max(1, int(len(array) / self.sample_rate * self.frame_rate))
        start = int(abs(float(np.mean(array))) * 1000)
        return (np.arange(self.num_codebooks * frames).reshape(self.num_codebooks, frames) + start) % CODES

    def decode(self, codes: Any, *, seed: int = 0, voice: Any = None) -> Any:
        self.decoded += 1
        if self.modality is Modality.IMAGE:
            grey = (codes.astype(np.int64).reshape(4, 8) * 15 + seed % 7).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        pitch = 0.01 * (1 + seed % 5) + (0.2 if voice is not None else 0.0)
        return (np.repeat(codes.sum(axis=0), 160).astype(np.float32) / 100 * pitch).astype(np.float32)


class Scripted:
    """Answers with the next script: parts, rendered and ended; refuses what the grammar would not have made."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar, context_length: int) -> None:
        self.vocabulary, self.grammar, self.context_length = vocabulary, grammar, context_length
        self.scripts: deque[Sequence[Part]] = deque()
        self.requests: list[Request] = []

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None, cancelled: Any = None
    ) -> list[Generation]:
        return [self._one(number, request, on_token) for number, request in enumerate(requests)]

    def _one(self, number: int, request: Request, on_token: Callable[[int, int], None] | None) -> Generation:
        self.requests.append(request)
        script = self.scripts.popleft() if self.scripts else self._usual(request.bounds.to)
        ids = [*render(script, self.vocabulary), self.vocabulary.id("<eos>")]
        automaton = self.grammar.begin(request.prompt, request.bounds, self.context_length)
        for token in ids:
            automaton.push(token)
            if on_token is not None:
                on_token(number, token)
        scores = tuple(-0.5 - 0.001 * n for n in range(len(ids)))
        return Generation(tuple(ids), scores, tuple(1.0 for _ in ids), "end", request.seed)

    def _usual(self, to: Modality | None) -> list[Part]:
        """A sentence, and what was demanded."""
        said = Part(Modality.TEXT, text="here it is")
        if to in (None, Modality.TEXT):
            return [said]
        books = self.vocabulary.range(Modality(to)).codebooks
        codes = np.arange(books * 32).reshape(books, 32) % CODES
        return [said, Part(Modality(to), span=self.vocabulary.to_span(Modality(to), codes))]


class FakeEngine:
    """Everything that nodes ask of an engine."""

    name = "fake"
    template = "MMGPT"
    versions: ClassVar[dict[str, str]] = {"python": "3"}
    context_length = 1024
    modalities = frozenset(Modality)
    sampling: ClassVar[dict[Modality, Any]] = {}

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.codecs = {kind: FakeCodec(kind) for kind in Modality if kind is not Modality.TEXT}
        rates = {kind: codec.frame_rate for kind, codec in self.codecs.items() if codec.frame_rate}
        self.grammar = Grammar(vocabulary, rates)
        self.language_model = Scripted(vocabulary, self.grammar, self.context_length)
        self.fingerprints = {name: f"sha256:{name}" for name in ("llm", "tokenizer", "image", "speech", "music")}

    def changed_weights(self, part: str) -> tuple[str, ...]:
        return ()

    def codec(self, modality: Modality) -> FakeCodec:
        return self.codecs[modality]

    def close(self) -> None:
        """Nothing is open."""

    def will_say(self, *parts: Part) -> None:
        self.language_model.scripts.append(parts)

    def span(self, modality: Modality, frames: int, start: int = 0) -> Part:
        books = self.codecs[modality].num_codebooks
        codes = (np.arange(books * frames).reshape(books, frames) + start) % CODES
        return Part(modality, span=Span(modality, self.vocabulary.to_span(modality, codes).ids))


@pytest.fixture
def engine(vocabulary: Vocabulary) -> FakeEngine:
    return FakeEngine(vocabulary)


@pytest.fixture
def store() -> Any:
    kept: Store = memory_store()
    yield kept
    kept.close()
