"""SEED beside a plain reading of its description, from the published names alone: other depths, widths and queries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anyloom.anygpt_model.codecs.seed import SeedTokenizer
from anyloom.anygpt_model.codecs.seed_config import SeedConfig

Weights = dict[str, Tensor]
BASE: dict[str, Any] = {
    "img_size": 16, "patch_size": 8, "vit_embed_dim": 24, "vit_depth": 2, "vit_heads": 3, "mlp_ratio": 2.7,
    "hidden_size": 24, "qformer_layers": 3, "qformer_heads": 2, "qformer_intermediate": 40, "num_query_token": 32,
    "codebook_size": 40, "codebook_dim": 6, "decode_depth": 2, "decode_heads": 4, "image_down": (20, 12, 5),
    "image_features_dim": 14,
}  # fmt: skip
SIZES: list[dict[str, Any]] = [
    {},
    {"vit_depth": 5, "vit_heads": 8, "decode_depth": 1, "cross_attention_freq": 3, "qformer_layers": 7},
    {"img_size": 24, "patch_size": 6, "num_query_token": 9, "decode_heads": 1, "cross_attention_freq": 1},
    {"vit_embed_dim": 40, "vit_heads": 5, "hidden_size": 36, "qformer_heads": 6, "decode_heads": 9, "decode_depth": 3},
]


def build(sizes: dict[str, Any], seed: int) -> SeedTokenizer:
    torch.manual_seed(seed)
    model = SeedTokenizer(SeedConfig(**BASE | sizes)).eval().requires_grad_(False)
    for tensor in model.state_dict().values():  # zeros and ones would hide what they do
        tensor.add_(torch.randn_like(tensor) * 0.2)
    return model


def line(x: Tensor, w: Weights, name: str) -> Tensor:
    made = x @ w[f"{name}.weight"].T
    return made + w[f"{name}.bias"] if f"{name}.bias" in w else made


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """[T, D], [S, D], [S, D] -> [T, D]."""
    width, made = q.shape[1] // heads, torch.zeros_like(q)
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        scores = q[:, cut] @ k[:, cut].T / math.sqrt(width)
        if causal:
            scores = scores - 10_000 * torch.ones_like(scores).triu(1)
        made[:, cut] = scores.softmax(-1) @ v[:, cut]
    return made


def block(x: Tensor, w: Weights, name: str, heads: int, separate_biases: bool) -> Tensor:
    normed = norm(x, w, f"{name}.norm1", 1e-6)
    q, k, v = (normed @ w[f"{name}.attn.qkv.weight"].T).chunk(3, -1)
    if separate_biases:
        q, v = q + w[f"{name}.attn.q_bias"], v + w[f"{name}.attn.v_bias"]
    else:
        q, k, v = (part + bias for part, bias in zip((q, k, v), w[f"{name}.attn.qkv.bias"].chunk(3), strict=True))
    x = x + line(attended(q, k, v, heads), w, f"{name}.attn.proj")
    inner = gelu(line(norm(x, w, f"{name}.norm2", 1e-6), w, f"{name}.mlp.fc1"))
    return x + line(inner, w, f"{name}.mlp.fc2")


def seen(pixels: Tensor, w: Weights, c: SeedConfig) -> Tensor:
    """pixels [3, S, S] -> [1 + patches, width]."""
    side, head = c.img_size // c.patch_size, "visual_encoder"
    kernel, bias = w[f"{head}.patch_embed.proj.weight"], w[f"{head}.patch_embed.proj.bias"]
    p = c.patch_size
    patches = [
        (kernel * pixels[:, row * p : (row + 1) * p, column * p : (column + 1) * p]).sum((1, 2, 3)) + bias
        for row in range(side)
        for column in range(side)
    ]
    x = torch.cat([w[f"{head}.cls_token"][0], torch.stack(patches)]) + w[f"{head}.pos_embed"][0]
    for n in range(c.vit_depth):
        x = block(x, w, f"{head}.blocks.{n}", c.vit_heads, separate_biases=True)
    return norm(x, w, "ln_vision", 1e-5)


def bert(x: Tensor, source: Tensor, w: Weights, name: str, heads: int, causal: bool) -> Tensor:
    q = line(x, w, f"{name}.self.query")
    k, v = line(source, w, f"{name}.self.key"), line(source, w, f"{name}.self.value")
    made = line(attended(q, k, v, heads, causal), w, f"{name}.output.dense") + x
    return norm(made, w, f"{name}.output.LayerNorm", 1e-12)


def queried(picture: Tensor, w: Weights, c: SeedConfig) -> Tensor:
    x = norm(w["query_tokens"][0], w, "Qformer.bert.embeddings.LayerNorm", 1e-12)
    for n in range(c.qformer_layers):
        name = f"Qformer.bert.encoder.layer.{n}"
        x = bert(x, x, w, f"{name}.attention", c.qformer_heads, causal=True)
        if n % c.cross_attention_freq == 0:
            x = bert(x, picture, w, f"{name}.crossattention", c.qformer_heads, causal=False)
        inner = line(gelu(line(x, w, f"{name}.intermediate_query.dense")), w, f"{name}.output_query.dense")
        x = norm(inner + x, w, f"{name}.output_query.LayerNorm", 1e-12)
    return x


def quantised(queries: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    z = line(line(queries, w, "encode_task_layer.0").tanh(), w, "encode_task_layer.2")
    return z, torch.stack([(row - w["quantize.embedding.weight"]).pow(2).sum(1).argmin() for row in z])


def embedded(codes: Tensor, w: Weights, c: SeedConfig) -> Tensor:
    x = w["quantize.embedding.weight"][codes]
    x = line(line(x, w, "decode_task_layer.0").tanh(), w, "decode_task_layer.2") + w["pos_embed_image"][0]
    for n in range(c.decode_depth):
        x = block(x, w, f"blocks_image.{n}", c.decode_heads, separate_biases=False)
    x = line(x, w, "image_down.0").relu()
    x = line(line(x, w, "image_down.2").relu(), w, "image_down.4")
    return line(x.flatten(), w, "distill_image_proj")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [1, 2])
@torch.inference_mode()
def test_every_stage_of_other_shapes(sizes: dict[str, Any], seed: int) -> None:
    model = build(sizes, seed)
    w, c = model.state_dict(), model.config
    pixels = torch.randn(2, 3, c.img_size, c.img_size)
    for row in range(2):
        queries = queried(seen(pixels[row], w, c), w, c)
        torch.testing.assert_close(model.query(pixels)[row], queries, rtol=0, atol=1e-5)
        z, codes = quantised(queries, w)
        torch.testing.assert_close(model.project(pixels)[row], z, rtol=0, atol=1e-5)
        assert torch.equal(model.encode(pixels)[row], codes)
        drawn = torch.randint(0, c.codebook_size, (c.num_query_token,))
        for given in (codes, drawn):
            torch.testing.assert_close(model.decode(given[None])[0], embedded(given, w, c), rtol=1e-5, atol=1e-5)
