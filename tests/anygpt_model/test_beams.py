"""Beam search: finds what a full search finds, shares the batch, and says where it can't serve."""

from typing import Any

import pytest

from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.errors import InputError, ReplayError
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Request, Sampling

TEXT = Modality.TEXT


def ask(seed: int, beams: int, tokens: int = 12) -> Request:
    return Request((1, 30 + seed, 77), seed, Bounds(TEXT, max_tokens=tokens), {TEXT: Sampling(beams=beams)})


def mean(made: Generation) -> float:
    return sum(made.logprobs) / len(made.ids)


def test_two_ids_are_the_likeliest_pair(llm_engine: Any) -> None:
    """With room for one id and the stop, the likeliest single id followed by its stop is found by trying them all."""
    request = ask(3, 16, tokens=2)
    [made] = llm_engine.generate([request])
    greedy = Request(request.prompt, 0, request.bounds, {TEXT: Sampling(temperature=0.0)})
    assert len(made.ids) == 2
    assert mean(made) >= mean(llm_engine.generate([greedy])[0])


def test_more_wordings_are_no_worse_and_always_the_same(llm_folder: Any) -> None:
    asked = [ask(seed, beams) for seed in range(4) for beams in (4,)]
    drawn = [Request(request.prompt, request.seed, request.bounds) for request in asked]
    with load_engine(llm_folder, device="cpu", prefix_bytes=0) as engine:
        alone = [engine.generate([request])[0] for request in asked]
        beside = engine.generate([*asked, *drawn])
        assert beside[:4] == alone
        assert beside[4:] == [engine.generate([request])[0] for request in drawn]
        greedy = [Request(request.prompt, 0, request.bounds, {TEXT: Sampling(temperature=0.0)}) for request in asked]
        better = [mean(one) >= mean(other) for one, other in zip(alone, engine.generate(greedy), strict=True)]
        assert sum(better) >= 3
        for generation in alone:
            assert generation.ids[-1] in engine.vocabulary.stop_ids


def test_it_equals_transformers(llm_engine: Any, llm_folder: Any) -> None:
    """With text ids and one stop allowed, transformers' beam search of the same width finds the same wording."""
    import torch
    from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

    class Mask(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: Any, scores: Any) -> Any:
            allowed = torch.full_like(scores, -torch.inf)
            text = [*llm_engine.vocabulary.text_ids, *(llm_engine.vocabulary.stop_ids if ids.shape[1] > 3 else [])]
            kept = scores.new_tensor(text, dtype=torch.long)
            allowed[:, kept] = scores[:, kept]
            return allowed.log_softmax(-1)

    reference = LlamaForCausalLM.from_pretrained(llm_folder / "llm").eval()
    request = Request((1, 40, 77), 0, Bounds(TEXT, frozenset([TEXT]), 60), {TEXT: Sampling(beams=3)})
    [ours] = llm_engine.generate([request])
    with torch.inference_mode():
        theirs = reference.generate(
            torch.tensor([request.prompt]), num_beams=3, do_sample=False, max_new_tokens=60, length_penalty=1.0,
            logits_processor=LogitsProcessorList([Mask()]), eos_token_id=sorted(llm_engine.vocabulary.stop_ids),
            pad_token_id=0, early_stopping=False,
        )[0, 3:].tolist()  # fmt: skip
    assert list(ours.ids)[:40] == theirs[:40]  # near the limit ours must leave room for its stop


def test_ids_come_once_they_are_settled(llm_engine: Any) -> None:
    seen: list[int] = []
    [made] = llm_engine.generate([ask(2, 3)], on_token=lambda _, token: seen.append(token))
    assert tuple(seen) == made.ids


def test_a_cancelled_search_leaves_nothing(llm_engine: Any) -> None:
    [made] = llm_engine.generate([ask(1, 8, tokens=900)], cancelled=lambda: True)
    assert made.finish == "cancelled"
    assert llm_engine.generate([ask(1, 2)])[0].ids
    assert llm_engine.language_model.load == (0, 0)


@pytest.mark.parametrize(
    ("bounds", "beams", "said"),
    [
        (Bounds(), 4, "serves text alone"),
        (Bounds(Modality.IMAGE), 4, "serves text alone"),
        (Bounds(TEXT), 17, r"takes 1 \(none\) to 16"),
        (Bounds(TEXT), 0, r"takes 1 \(none\) to 16"),
    ],
)
def test_what_it_cannot_serve_is_refused(llm_engine: Any, bounds: Bounds, beams: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        llm_engine.generate([Request((1, 30), 0, bounds, {TEXT: Sampling(beams=beams)})])


def test_it_says_that_it_cannot_be_verified(llm_engine: Any) -> None:
    request = ask(1, 2)
    [made] = llm_engine.generate([request])
    with pytest.raises(ReplayError, match="beam search"):
        llm_engine.verifying([(request, made)]).generate([request])
