"""What benchmarks/generation.py compares: a model with its weights held twice, and the ways to make ids with it.

Every way takes `rows` prompts that no earlier call had and makes `tokens` speech codes for each, so that lengths are
equal. Knows no clock and no table.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation import BaseStreamer

from anyloom.anygpt_model.checkpoints import LANGUAGE, model_folder
from anyloom.anygpt_model.language_model import Live
from anyloom.anygpt_model.legal_ids import Legal, interned
from anyloom.anygpt_model.legality import Grammar, State
from anyloom.anygpt_model.llama import Llama
from anyloom.anygpt_model.llama_shape import LlamaShape
from anyloom.anygpt_model.values import Bounds, Finish, Modality, Request
from anyloom.anygpt_model.vocabulary import Vocabulary

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "pad_token_id": 0}
SMALL_LLAMA = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""A Llama of 135 million parameters, in the shape of SmolLM2-135M."""
OnToken = Callable[[], None]


class Endless:
    """An automaton of exactly `length` speech codes."""

    finish: Finish = "length"

    def __init__(self, legal: Legal, length: int) -> None:
        self._legal, self._left, self.state = legal, length, State()

    @property
    def ended(self) -> bool:
        return self._left == 0

    def legal(self) -> Legal:
        return self._legal

    def meant(self, token: int) -> int:
        return token

    def push(self, token: int) -> None:
        self._left -= 1


class EndlessGrammar(Grammar):
    """Replies of equal length, for measuring."""

    def begin(self, prompt: Any, bounds: Bounds, context_length: int) -> Any:
        table = self.vocabulary.range(Modality.SPEECH)
        ranges = ((table.start, table.stop), (table.closing, table.closing + 1))
        return Endless(interned(Modality.SPEECH, ranges), bounds.max_tokens)


class Ticks(BaseStreamer):  # type: ignore[misc]
    """Tells of each step of transformers' `generate`; the first word is the prompt's."""

    def __init__(self, tick: OnToken) -> None:
        self._tick, self._begun = tick, False

    def put(self, value: Any) -> None:
        if self._begun:
            self._tick()
        self._begun = True

    def end(self) -> None:
        return


@dataclass
class Subject:
    """One model: `reference` is transformers' with the same weights, `live` ours."""

    name: str
    vocabulary: Vocabulary
    reference: Any
    live: Live
    tokens: int
    prompt: int

    def __post_init__(self) -> None:
        self._rows = itertools.count()

    def fresh(self, length: int) -> list[int]:
        """A prompt of text ids, different from all others from the start, so that no prefix is shared."""
        rng = np.random.default_rng(next(self._rows))
        return [self.vocabulary.bos, *rng.choice(self.vocabulary.text_ids, length - 1).tolist()]

    def plain(self, rows: int, tick: OnToken | None = None, tokens: int | None = None) -> None:
        """transformers' `generate`."""
        self._generate([self.fresh(self.prompt) for _ in range(rows)], tick, tokens)

    def original(self, rows: int, tick: OnToken | None = None, tokens: int | None = None) -> None:
        """The original's path: a string in, `generate` with scores, a string out, codes by a regex."""
        lines = [self.vocabulary.decode(self.fresh(self.prompt)[1:]) for _ in range(rows)]
        ids = [[self.vocabulary.bos, *self.vocabulary.encode(line)][: self.prompt] for line in lines]
        shortest = min(map(len, ids))
        made = self._generate(
            [line[:shortest] for line in ids], tick, tokens, output_scores=True, return_dict_in_generate=True
        )
        for row in made.sequences.tolist():
            re.findall(r"\d+", " ".join(self._strings[token] for token in row))

    def continuous(self, rows: int, tick: OnToken | None = None, tokens: int | None = None) -> None:
        """transformers' continuous batching."""
        from transformers import GenerationConfig

        settings = GenerationConfig(**SAMPLING, max_new_tokens=tokens or self.tokens, eos_token_id=-1)
        made = self.reference.generate_batch([self.fresh(self.prompt) for _ in range(rows)], generation_config=settings)
        if len(made) != rows or any(len(one.generated_tokens) != (tokens or self.tokens) for one in made.values()):
            raise RuntimeError("transformers' continuous batching did not finish its requests.")

    def ours(self, rows: int, tick: OnToken | None = None, tokens: int | None = None) -> None:
        """One call with `rows` requests."""
        asked = [self.request(self.fresh(self.prompt), tokens) for _ in range(rows)]
        self.live.generate(asked, None if tick is None else lambda *_: tick())

    def threads(self, rows: int) -> None:
        """`rows` threads that call at once."""
        asked = [self.request(self.fresh(self.prompt)) for _ in range(rows)]
        callers = [threading.Thread(target=self.live.generate, args=([request],)) for request in asked]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    def linears(self) -> Callable[[], None]:
        """One pass through the products of all layers for 16 rows, and nothing else."""
        llama = self.live.llama
        rows = torch.randn(16, llama.shape.hidden, dtype=llama.dtype)
        heads = torch.randn(16, llama.shape.heads * llama.shape.head_dim, dtype=llama.dtype)
        wide = torch.randn(16, llama.shape.intermediate, dtype=llama.dtype)

        def run() -> None:
            for layer in llama.layers:
                layer.qkv(rows)
                layer.out(heads)
                layer.gate(rows)
                layer.up(rows)
                layer.down(wide)

        return run

    def request(self, ids: list[int], tokens: int | None = None) -> Request:
        """A request for a reply to `ids`."""
        return Request(tuple(ids), 1, Bounds(max_tokens=tokens or self.tokens))

    def _generate(self, prompts: list[list[int]], tick: OnToken | None, tokens: int | None, **more: Any) -> Any:
        ids = torch.tensor(prompts)
        count = tokens or self.tokens
        with torch.inference_mode():
            return self.reference.generate(
                ids, attention_mask=torch.ones_like(ids), **SAMPLING, **more, max_new_tokens=count,
                min_new_tokens=count, streamer=Ticks(tick) if tick is not None else None,
            )  # fmt: skip

    @cached_property
    def _strings(self) -> list[str]:
        known = self.vocabulary.size
        return [self.vocabulary.string(token) if token < known else "" for token in range(SMALL_LLAMA["vocab_size"])]


def open_subject(name: str, tokens: int, prompt: int, prefix_bytes: int) -> Subject:
    """name: "pocket" (float32), "llama-135m" (bfloat16, random weights), or a model's name or folder (float32)."""
    vocabulary = Vocabulary.from_folder(model_folder("pocket" if name == "llama-135m" else name) / LANGUAGE)
    if name == "llama-135m":
        torch.manual_seed(0)
        dtype = torch.bfloat16
        reference = LlamaForCausalLM(LlamaConfig(**SMALL_LLAMA)).to(dtype).eval()
        shape = _shape(reference.config)
    else:
        dtype, folder = torch.float32, model_folder(name) / LANGUAGE
        reference = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        shape = LlamaShape.from_folder(folder)
    llama = Llama(shape, dict(reference.state_dict()), torch.device("cpu"), dtype)
    live = Live(llama, EndlessGrammar(vocabulary), shape.positions, prefix_bytes=prefix_bytes)
    return Subject(name, vocabulary, reference, live, tokens, prompt)


def _shape(config: Any) -> LlamaShape:
    return LlamaShape(
        hidden=config.hidden_size, intermediate=config.intermediate_size, layers=config.num_hidden_layers,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads, vocabulary=config.vocab_size,
        positions=config.max_position_embeddings, eps=config.rms_norm_eps, theta=10_000.0, tied=True,
    )  # fmt: skip
