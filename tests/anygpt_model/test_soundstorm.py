"""SoundStorm against the original's numbers: logits, every run of generate, a training step, tensors at full size."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from anyloom.anygpt_model.codecs.soundstorm import SoundStorm, SoundStormConfig, most_likely

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden() -> tuple[SoundStorm, dict[str, Tensor]]:
    tensors = load_file(GOLDENS / "soundstorm_tiny.safetensors")
    config = SoundStormConfig.from_json(json.loads((GOLDENS / "soundstorm_tiny.json").read_text())["config"])
    storm = SoundStorm(config).eval()
    storm.load_state_dict({key[3:]: value for key, value in tensors.items() if key.startswith("sd/")})
    return storm, tensors


def test_logits_are_the_originals(golden):
    storm, tensors = golden
    codes, semantic = tensors["in/masked_tokens"], tensors["in/cond_ids"]
    with torch.inference_mode():
        free = storm(codes, semantic).flatten(1, 2)
        padded = storm(codes, semantic, tensors["in/seq_mask"]).flatten(1, 2)
    torch.testing.assert_close(free, tensors["out/logits_nomask"], rtol=0, atol=1e-4)
    torch.testing.assert_close(padded, tensors["out/logits_masked"], rtol=0, atol=1e-4)


def test_embeds_are_the_originals(golden):
    storm, tensors = golden
    condition = storm.semantic_token_emb(tensors["in/cond_ids"])
    made = storm.net.embeds(tensors["in/masked_tokens"], condition, tensors["in/seq_mask"]).flatten(1, 2)
    torch.testing.assert_close(made.detach(), tensors["out/embeds_masked"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_generate_without_noise_is_the_originals(golden, steps, prompted):
    storm, tensors = golden
    name = f"gen_s{steps}_{'' if steps == 1 else 'zeronoise_'}{'prompt' if prompted else 'noprompt'}"
    prompt = tensors["in/prompt"] if prompted else None
    made = storm.generate(tensors["in/semantic"], prompt, steps, noise=0.0)
    assert torch.equal(made, tensors[f"out/{name}"])


def test_one_step_ignores_noise_takes_batches_and_other_integers(golden):
    storm, tensors = golden
    assert torch.equal(storm.generate(tensors["in/semantic"], steps=1), tensors["out/gen_s1_noprompt"])
    assert torch.equal(storm.generate(tensors["in/semantic_b2"], steps=1), tensors["out/gen_s1_b2"])
    assert torch.equal(storm.generate(tensors["in/semantic"], steps=1)[:, :, 1:], tensors["out/gen_s1_nocat"])
    small = storm.generate(tensors["in/semantic"].int(), tensors["in/prompt"].int(), steps=1)
    assert torch.equal(small, tensors["out/gen_s1_prompt_int32"])


@pytest.mark.parametrize(("name", "greedy"), [("prompt", True), ("nongreedy", False)])
def test_seeded_runs_are_the_originals(golden, name, greedy):
    storm, tensors = golden
    wanted = tensors[f"out/gen_s3_torchseed123_{name}"]
    generator = torch.Generator().manual_seed(123)
    assert torch.equal(storm.generate(tensors["in/semantic"], tensors["in/prompt"], 3, greedy, generator), wanted)
    torch.manual_seed(123)
    assert torch.equal(storm.generate(tensors["in/semantic"], tensors["in/prompt"], 3, greedy), wanted)


def test_the_loss_of_a_training_step_is_the_originals(golden):
    storm, tensors = golden
    codes, levels = tensors["in/train_x"], storm.config.num_quantizers
    # The original's draws, in their order. The rank counts from one, so one frame fewer is hidden than the share says.
    drawn = random.Random(5)
    torch.manual_seed(5)
    heard = drawn.randrange(codes.shape[1] - 1)
    shares = torch.cos(torch.rand(len(codes), 1) * math.pi / 2)
    ranks = torch.rand(len(codes), codes.shape[1] - heard).argsort(dim=-1) + 1
    level = drawn.randrange(levels)
    hidden = F.pad(ranks < ranks.shape[1] * shares, (heard, 0))
    given = codes.clone()
    given[:, :, level][hidden] = storm.mask_id
    given[:, heard:, level + 1 :] = storm.mask_id
    with torch.inference_mode():
        logits = storm(given, tensors["in/train_cond"])[:, :, level][hidden]
    loss = F.cross_entropy(logits, codes[:, :, level][hidden])
    torch.testing.assert_close(loss[None], tensors["out/train_loss"], rtol=0, atol=1e-5)


def test_at_full_size_tensors_are_the_published_ones(published, table_of):
    with torch.device("meta"):
        assert table_of(SoundStorm(SoundStormConfig())) == published("soundstorm")


@pytest.mark.parametrize(
    "sizes", [{"depth": 1, "heads": 3, "dim_head": 8}, {"conv_kernel_size": 5, "num_quantizers": 3}]
)
def test_other_shapes_fill_every_level_with_codes(sizes):
    base = {"codebook_size": 24, "num_semantic_token_ids": 40, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8}
    storm = SoundStorm(SoundStormConfig(**(base | sizes))).eval()
    semantic = torch.randint(0, 40, (2, 13))
    made = storm.generate(semantic, steps=4, generator=torch.Generator().manual_seed(1))
    assert made.shape == (2, 13, 1 + storm.config.num_quantizers)
    assert torch.equal(made[:, :, 0], semantic)
    assert int(made[:, :, 1:].max()) < 24


def test_padding_changes_nothing_for_the_real_frames(golden):
    storm, tensors = golden
    codes, semantic = tensors["in/masked_tokens"][:, :11], tensors["in/cond_ids"][:, :11]
    longer, padding = tensors["in/masked_tokens"], torch.arange(19)[None].expand(2, -1) < 11
    with torch.inference_mode():
        alone = storm(codes, semantic)
        padded = storm(longer, tensors["in/cond_ids"], padding)[:, :11]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_most_likely_keeps_three_tenths():
    kept = most_likely(torch.arange(10.0)[None])
    assert kept.isfinite().sum() == 4  # the original rounds 0.30000000000000004 times ten up
