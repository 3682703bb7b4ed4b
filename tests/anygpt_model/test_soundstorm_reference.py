"""SoundStorm beside a plain reading of its description, in loops and by hand: other sizes, seeds, steps, prompts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anyloom.anygpt_model.codecs.soundstorm import SoundStorm, SoundStormConfig

SIZES: list[dict[str, Any]] = [
    {"codebook_size": 40, "num_semantic_token_ids": 30, "dim": 24, "depth": 1, "heads": 3, "dim_head": 8},
    {"codebook_size": 17, "num_quantizers": 3, "num_semantic_token_ids": 9, "dim": 16, "depth": 3, "heads": 1,
     "dim_head": 16, "conv_kernel_size": 7, "ff_mult": 2, "conv_expansion_factor": 1},
    {"codebook_size": 64, "num_quantizers": 2, "num_semantic_token_ids": 64, "dim": 32, "depth": 2, "heads": 2,
     "dim_head": 4, "conv_kernel_size": 31, "conv_expansion_factor": 3},
]  # fmt: skip


def build(sizes: dict[str, Any], seed: int) -> SoundStorm:
    torch.manual_seed(seed)
    storm = SoundStorm(SoundStormConfig(**sizes)).eval()
    for tensor in storm.state_dict().values():  # norms and biases start as ones and zeros: make them tell
        tensor.add_(torch.randn_like(tensor) * 0.1)
    return storm


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def line(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    made = x @ w[f"{name}.weight"].reshape(w[f"{name}.weight"].shape[:2]).T
    return made + w[f"{name}.bias"] if f"{name}.bias" in w else made


def feed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    inner = line(norm(x, w, f"{name}.fn.norm"), w, f"{name}.fn.fn.net.0")
    return line(inner * torch.sigmoid(inner), w, f"{name}.fn.fn.net.3")


def turned(x: Tensor, position: int) -> Tensor:
    """One head's vector at one position: the two halves are the coordinates of its pairs."""
    half = len(x) // 2
    angle = torch.tensor([position * 10_000 ** (-2 * i / len(x)) for i in range(half)])
    first, second = x[:half], x[half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])


def attend(x: Tensor, w: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """x [N, dim]."""
    x = norm(x, w, f"{name}.norm")
    query, both = line(x, w, f"{name}.fn.to_q"), line(x, w, f"{name}.fn.to_kv")
    key, value = both[:, : query.shape[1]], both[:, query.shape[1] :]
    width = query.shape[1] // heads
    made = torch.zeros_like(query)
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        q = torch.stack([turned(row, n) for n, row in enumerate(query[:, cut])])
        k = torch.stack([turned(row, n) for n, row in enumerate(key[:, cut])])
        made[:, cut] = torch.softmax(q @ k.T / math.sqrt(width), -1) @ value[:, cut]
    return line(made, w, f"{name}.fn.to_out")


def convolve(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """x [N, dim]."""
    both = line(norm(x, w, f"{name}.net1.0"), w, f"{name}.net1.2")
    half = both.shape[1] // 2
    gated = both[:, :half] * torch.sigmoid(both[:, half:])
    kernel = w[f"{name}.ds_conv.conv.weight"][:, 0]
    size = kernel.shape[1]
    padded = torch.cat([torch.zeros(size // 2, half), gated, torch.zeros(size // 2, half)])
    heard = torch.stack([(padded[n : n + size] * kernel.T).sum(0) for n in range(len(x))])
    heard = heard + w[f"{name}.ds_conv.conv.bias"]
    heard = heard * torch.sigmoid(heard)
    variance = heard.var(1, unbiased=False, keepdim=True).clamp(min=1e-6)
    normed = (heard - heard.mean(1, keepdim=True)) / variance.sqrt() * w[f"{name}.net2.1.gamma"][0, :, 0]
    return line(normed, w, f"{name}.net2.2")


def logits_of(codes: Tensor, semantic: Tensor, storm: SoundStorm) -> Tensor:
    """One sound: codes [N, levels], semantic [N] -> [N, levels, size]."""
    w, c = storm.state_dict(), storm.config
    x = w["semantic_token_emb.weight"][semantic]
    for level in range(c.num_quantizers):
        x = x + w["net.code_embeds.weight"][codes[:, level] + level * (c.codebook_size + 1)]
    for layer in range(c.depth):
        name = f"net.conformer.layers.{layer}"
        x = x + 0.5 * feed(x, w, f"{name}.ff1")
        x = x + attend(x, w, f"{name}.attn", c.heads)
        x = x + convolve(x, w, f"{name}.conv")
        x = x + 0.5 * feed(x, w, f"{name}.ff2")
        x = norm(x, w, f"{name}.post_norm")
    wide = line(x, w, "net.heads.0").reshape(len(codes), c.num_quantizers, c.dim)
    wide = norm(wide, w, "net.to_logits.0")
    weight, bias = w["net.to_logits.2.weight"], w["net.to_logits.2.bias"][0, 0]
    return torch.stack([wide[:, level] @ weight[level] + bias[level] for level in range(c.num_quantizers)], 1)


def generated(
    storm: SoundStorm, semantic: Tensor, prompt: Tensor, steps: int, greedy: bool, seed: int, noise: float
) -> Tensor:
    """Section 4.3 of the description, for one sound: semantic [n], prompt [m, 1 + levels]."""
    size, levels = storm.config.codebook_size, storm.config.num_quantizers
    draw = torch.Generator().manual_seed(seed)
    m, total = len(prompt), len(prompt) + len(semantic)
    x = torch.full((total, levels), size)
    x[:m] = prompt[:, 1:]
    first = torch.cat([prompt[:, 0], semantic])
    free = torch.zeros(total, levels, dtype=torch.bool)
    free[m:] = True
    masked = free.clone()
    for i in range(steps + 1):
        k = 0 if i == steps else math.trunc(total * math.cos(math.pi * i / (2 * steps)))
        found = storm(x[None], first[None])[0]
        if k == 0 and greedy:
            x = torch.where(masked, found.argmax(-1), x)
            break
        keep = math.ceil((1 - 0.7) * size)
        floor = found.sort(-1, descending=True).values[..., keep - 1 : keep]
        found = found.masked_fill(found < floor, -math.inf)
        uniform = torch.zeros(1, total, levels, size).uniform_(0, 1, generator=draw)[0]
        gumbel = -torch.log(-torch.log(uniform + 1e-10) + 1e-10)
        ids = (found / max(i / steps, 1e-10) + noise * gumbel).argmax(-1)
        x = torch.where(masked, ids, x)
        if k == 0:
            break
        doubt = [1 - float(found[n, q].softmax(-1)[ids[n, q]]) for n in range(total) for q in range(levels)]
        worst = sorted(range(len(doubt)), key=lambda place: -doubt[place])[:k]
        masked = torch.zeros(total * levels, dtype=torch.bool)
        masked[worst] = True
        masked = masked.reshape(total, levels)
        masked[:, 1:] = True
        masked &= free
        x = x.masked_fill(masked, size)
    for level in range(1, levels):
        x[:, level:] = storm(x[None], first[None])[0].argmax(-1)[:, level:]
    return torch.cat([semantic[:, None], x[m:]], 1)


@pytest.mark.parametrize("sizes", SIZES)
@torch.inference_mode()
def test_logits_of_other_shapes(sizes: dict[str, Any]) -> None:
    storm = build(sizes, 3)
    for length in (1, 2, 19):
        codes = torch.randint(0, sizes["codebook_size"] + 1, (2, length, storm.config.num_quantizers))
        semantic = torch.randint(0, sizes["num_semantic_token_ids"], (2, length))
        made = storm(codes, semantic)
        for row in range(2):
            torch.testing.assert_close(made[row], logits_of(codes[row], semantic[row], storm), rtol=0, atol=1e-4)


DRAWN = ((True, 1.0), (False, 1.0), (True, 0.0))
CASES = [
    (sizes, steps, heard, greedy, noise, 10 * number + steps + heard)
    for number, sizes in enumerate(SIZES)
    for steps in (1, 2, 3, 5, 9)
    for heard in (0, 1, 7)
    for greedy, noise in DRAWN
]


@pytest.mark.parametrize(("sizes", "steps", "heard", "greedy", "noise", "seed"), CASES[::4])
@torch.inference_mode()
def test_generate_with_other_seeds_steps_and_prompts(
    sizes: dict[str, Any], steps: int, heard: int, greedy: bool, noise: float, seed: int
) -> None:
    storm = build(sizes, seed)
    length = 3 + seed % 14
    semantic = torch.randint(0, sizes["num_semantic_token_ids"], (length,))
    prompt = torch.randint(0, sizes["codebook_size"], (heard, 1 + storm.config.num_quantizers))
    prompt[:, 0] %= sizes["num_semantic_token_ids"]
    made = storm.generate(
        semantic[None], prompt[None] if heard else None, steps, greedy, torch.Generator().manual_seed(seed), noise
    )
    assert torch.equal(made[0], generated(storm, semantic, prompt, steps, greedy, seed, noise))


@torch.inference_mode()
def test_a_batch_without_noise_is_what_each_sound_gives() -> None:
    storm = build(SIZES[0], 8)
    semantic = torch.randint(0, 30, (3, 11))
    made = storm.generate(semantic, steps=4, noise=0.0)
    for row in range(3):
        alone = generated(storm, semantic[row], torch.zeros(0, 8).long(), 4, True, 0, 0.0)
        assert torch.equal(made[row], alone)
    assert F.one_hot(made[:, :, 1:], 40).sum() == 3 * 11 * 7
