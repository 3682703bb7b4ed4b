"""Noise, draws and the decoding of many requests: the same ids whatever is beside them."""

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.caches import Prefixes, Slots
from anyloom.anygpt_model.generation import Decider
from anyloom.anygpt_model.grammar import parse
from anyloom.anygpt_model.legal_ids import Legal
from anyloom.anygpt_model.legality import Grammar
from anyloom.anygpt_model.llama import PREFILL_CHUNK, Llama
from anyloom.anygpt_model.sampling import FORCED_MARGIN, border_distance, decide, gumbel, uniforms
from anyloom.anygpt_model.values import Bounds, Modality, Request, Sampling

TEXT, IMAGE, SPEECH, MUSIC = Modality.TEXT, Modality.IMAGE, Modality.SPEECH, Modality.MUSIC


def requests(count: int, tokens: int = 60) -> list[Request]:
    """Prompts of different lengths, demands and seeds."""
    rng = random.Random(3)
    kinds = [None, TEXT, IMAGE, SPEECH, MUSIC]
    return [
        Request(
            (1, *(rng.randrange(3, 420) for _ in range(5 + 9 * n))),
            seed=n,
            bounds=Bounds(kinds[n % 5], max_tokens=tokens),
        )
        for n in range(count)
    ]


def test_the_noise_is_what_it_always_was() -> None:
    ids = np.array([0, 1, 420, 53_519])
    known = [0.6769, 0.6622, 0.782, 0.5579]
    assert uniforms(7, 3, ids).tolist() == uniforms(7, 3, ids).tolist()
    assert uniforms(7, 3, ids)[2] == uniforms(7, 3, ids[2:3])[0]
    assert len({tuple(uniforms(seed, step, ids)) for seed in range(5) for step in range(5)}) == 25
    assert np.round(uniforms(7, 3, ids), 4).tolist() == pytest.approx(known, abs=1e-9)


def test_the_noise_is_uniform_and_unrelated_between_steps() -> None:
    ids = np.arange(20_000)
    first, second = uniforms(1, 0, ids), uniforms(1, 1, ids)
    assert 0 < first.min() < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(first.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert np.isfinite(gumbel(1, 0, ids)).all()


def test_draws_follow_the_softmax() -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0], dtype=np.float32)
    wanted = np.exp(logits) / np.exp(logits).sum()
    drawn = [decide(logits, np.arange(4), Sampling(), seed, 0) for seed in range(6000)]
    shares = np.bincount([decision.token for decision in drawn], minlength=4) / 6000
    assert np.abs(shares - wanted).max() < 0.02
    assert drawn[0].logprob == pytest.approx(np.log(wanted[drawn[0].token]), abs=1e-6)


@pytest.mark.parametrize(
    ("sampling", "kept"), [(Sampling(top_k=2), {2, 0}), (Sampling(top_p=0.6), {2}), (Sampling(temperature=0), {2})]
)
def test_what_is_cut_is_never_drawn(sampling: Sampling, kept: set[int]) -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0], dtype=np.float32)
    assert {decide(logits, np.arange(4), sampling, seed, 0).token for seed in range(300)} == kept


def test_the_penalty_weakens_what_the_span_holds() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    repeated = np.array([True, False, False])
    greedy = Sampling(temperature=0, repetition_penalty=1.15)
    assert decide(logits, np.arange(3), greedy, 0, 0, repeated).token == 1
    assert decide(logits, np.arange(3), greedy, 0, 0).token == 0


def test_margins_say_how_near_another_choice_was() -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0], dtype=np.float32)
    for seed in range(50):
        decision = decide(logits, np.arange(4), Sampling(), seed, 0)
        moved = logits.copy()
        moved[decision.token] -= decision.margin * 1.01
        assert decide(moved, np.arange(4), Sampling(), seed, 0).token != decision.token
        moved[decision.token] = logits[decision.token] - decision.margin * 0.99
        assert decide(moved, np.arange(4), Sampling(), seed, 0).token == decision.token
    assert decide(logits[:1], np.arange(1), Sampling(), 0, 0).margin == FORCED_MARGIN


def test_the_border_of_the_candidates_counts_as_a_near_tie() -> None:
    logits = np.array([1.0, 1.0 - 1e-6, 2.0], dtype=np.float32)
    near = [border_distance(logits, np.arange(3), Sampling(top_k=2), seed, 0) for seed in range(200)]
    assert min(near) < 1e-5
    assert border_distance(logits, np.arange(3), Sampling(), 0, 0) == FORCED_MARGIN


def test_hidden_states_equal_transformers(llm_engine: Any, llm_folder: Any) -> None:
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(llm_folder / "llm").eval()
    llama: Llama = llm_engine.language_model.llama
    ids = np.random.default_rng(0).integers(0, 466, PREFILL_CHUNK + 40)
    with torch.inference_mode():
        wanted = reference(torch.from_numpy(ids)[None]).logits[0].numpy()
    everything = Legal(TEXT, ((0, 466),), ())
    prefix = llama.new_prefix(len(ids))
    hidden = [llama.prefill(ids[:PREFILL_CHUNK], prefix), llama.prefill(ids[PREFILL_CHUNK:-5], prefix)]
    slots = Slots(llama, 1, 400)
    slots.install(0, prefix)
    hidden += [llama.step([int(ids[at])], [at], slots) for at in range(len(ids) - 5, len(ids))]
    assert np.abs(llama.logits(torch.cat(hidden), everything) - wanted).max() < 2e-4


def test_greedy_ids_equal_generate(llm_engine: Any, llm_folder: Any) -> None:
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(llm_folder / "llm").eval()
    prompt = [1, 30, 77, 200, 15]
    with torch.inference_mode():
        made = reference.generate(
            torch.tensor([prompt]), max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :].tolist()
    # With the mask off every id of the vocabulary may follow at every step.
    llama: Llama = llm_engine.language_model.llama
    everything = Legal(TEXT, ((0, 466),), ())
    prefix, slots = llama.new_prefix(len(prompt)), Slots(llama, 1, 100)
    hidden = llama.prefill(np.array(prompt), prefix)[-1:]
    slots.install(0, prefix)
    ours: list[int] = []
    while len(ours) < 60:
        logits = llama.logits(hidden, everything)[0]
        ours.append(decide(logits, everything.ids(), Sampling(temperature=0), 0, len(ours)).token)
        hidden = llama.step([ours[-1]], [len(prompt) + len(ours) - 1], slots)
    assert ours == made


@pytest.mark.parametrize("compiled", ["1", "0"])
def test_the_same_ids_alone_together_in_another_order_and_from_threads(
    llm_folder: Any, monkeypatch: pytest.MonkeyPatch, compiled: str
) -> None:
    from anyloom.anygpt_model.engine import load_engine

    monkeypatch.setenv("ANYLOOM_COMPILED", compiled)
    asked = requests(16)
    with load_engine(llm_folder, device="cpu", prefix_bytes=0) as engine:
        assert engine.language_model.llama.exact, "this machine's products depend on the number of rows"
        alone = [engine.generate([request])[0] for request in asked]
        assert engine.generate(asked) == alone
        assert engine.generate(asked[::-1])[::-1] == alone
        found: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda n=n: found.update({n: engine.generate([asked[n]])[0]})) for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[n] for n in range(16)] == alone
    with load_engine(llm_folder, device="cpu", prefix_bytes=0) as again:
        assert again.generate(asked[:3]) == alone[:3]


def test_a_random_network_is_legal_without_repair(llm_engine: Any) -> None:
    asked = [Request(request.prompt, seed, request.bounds) for seed in range(8) for request in requests(8, tokens=50)]
    for request, generation in zip(asked, llm_engine.generate(asked), strict=True):
        parts = parse(generation.ids, llm_engine.vocabulary)
        assert request.bounds.to is None or request.bounds.to in {part.modality for part in parts} | {TEXT}
        assert len(generation.ids) == len(generation.logprobs) == len(generation.margins) <= 50
        assert generation.finish in ("end", "length")


def test_a_kept_prefix_changes_no_id_and_saves_its_prompt(llm_engine: Any) -> None:
    llama = llm_engine.language_model.llama
    ids = np.arange(3, 203)
    fresh = llama.new_prefix(200)
    whole = llama.prefill(ids, fresh)
    kept = Prefixes(1 << 30)
    head = llama.new_prefix(150)
    llama.prefill(ids[:150], head)
    kept.keep(ids[:150], head)
    found, shared = kept.longest(ids)
    assert found is head
    assert shared == 150
    assert kept.longest(np.array([9, 9]))[1] == 0
    fork = np.array([*range(3, 103), 7, 7, 7])
    assert kept.longest(fork)[1] == 100
    rest = llama.new_prefix(200)
    rest.data[:, :, :, :150] = head.data
    rest.length = 150
    assert torch.allclose(llama.prefill(ids[150:], rest), whole[150:], atol=1e-4)


def test_prefixes_stay_within_their_bytes(llm_engine: Any) -> None:
    llama = llm_engine.language_model.llama
    one = llama.new_prefix(10)
    kept = Prefixes(3 * one.nbytes)
    for start in range(6):
        kept.keep(np.arange(start * 10, start * 10 + 10), llama.new_prefix(10))
        assert kept.nbytes <= 3 * one.nbytes
    assert kept.longest(np.array([0, 1, 2]))[1] == 0
    assert kept.longest(np.array([50, 51, 52]))[1] == 2
    kept.keep(np.arange(50, 62), llama.new_prefix(12))
    assert kept.longest(np.arange(50, 70))[1] == 12


def test_sampling_switches_at_the_markers(llm_engine: Any) -> None:
    grammar: Grammar = llm_engine.grammar
    request = Request((1, 5), 0, Bounds(to=IMAGE), {IMAGE: Sampling(temperature=0.5), TEXT: Sampling(top_k=3)})
    decider = Decider(request, grammar, 500)
    assert decider.settings()[1] == Sampling(top_k=3)
    decider.push(llm_engine.vocabulary.range(IMAGE).opening)
    assert decider.settings()[1] == Sampling(temperature=0.5)


def test_the_penalty_counts_the_open_span_only(llm_engine: Any) -> None:
    table = llm_engine.vocabulary.range(SPEECH)
    decider = Decider(Request((1, table.start, table.opening), 0), llm_engine.grammar, 500)
    decider.push(table.start + 2)
    repeated = decider.repeated()
    assert repeated is not None
    legal, _ = decider.settings()
    assert legal.ids()[repeated].tolist() == [table.start + 2]
    decider.push(table.closing)
    decider.push(table.opening)
    repeated = decider.repeated()
    assert repeated is not None
    assert not repeated.any()
