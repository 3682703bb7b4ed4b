"""Generation at length: ten thousand replies of random weights are legal, twenty thousand ids never diverge."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.grammar import parse
from anyloom.anygpt_model.values import Bounds, Modality, Request

pytestmark = pytest.mark.soak


def requests(count: int, tokens: int) -> list[Request]:
    rng = random.Random(5)
    kinds = [None, *Modality]
    return [
        Request(
            (1, *(rng.randrange(3, 420) for _ in range(rng.randrange(1, 30)))),
            seed,
            Bounds(kinds[seed % 5], max_tokens=tokens),
        )
        for seed in range(count)
    ]


def test_ten_thousand_replies_of_random_weights_need_no_repair(llm_folder: Any) -> None:
    with load_engine(llm_folder, device="cpu", queue=10_000) as engine:
        asked = requests(10_000, 44)
        for request, generation in zip(asked, engine.generate(asked), strict=True):
            parts = parse(generation.ids, engine.vocabulary)
            made = {part.modality for part in parts}
            assert request.bounds.to in {None, Modality.TEXT} | made
            assert generation.finish in ("end", "length")
            assert sum(len(part.span.ids) for part in parts if part.span is not None) <= len(generation.ids) <= 44


def test_twenty_thousand_ids_never_diverge(llm_folder: Any) -> None:
    asked = requests(400, 200)
    with load_engine(llm_folder, device="cpu", prefix_bytes=0, queue=400) as engine:
        alone = [engine.generate([request])[0] for request in asked]
        assert sum(len(generation.ids) for generation in alone) >= 20_000
        assert engine.generate(asked) == alone
        assert engine.generate(asked[::-1])[::-1] == alone
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda request: engine.generate([request])[0], asked)) == alone
    with load_engine(llm_folder, device="cpu", prefix_bytes=0, queue=400, slots=5) as again:
        assert again.generate(asked) == alone
