"""EVA-CLIP's vision transformer, and the blocks that SEED-2's decoder is built of too.

Parameter names are those of the published files. Knows no code and no Q-Former.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .seed_config import SeedConfig
from .stem import Stem


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Softmax attention over `heads` heads: q [B, T, D], k and v [B, S, D] -> [B, T, D]."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class EvaAttention(nn.Module):
    """EVA's self-attention: biases for queries and values, none for keys. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.heads))  # type: ignore[no-any-return]


class PlainAttention(nn.Module):
    """Self-attention with one bias for queries, keys and values. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.heads))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block around the given attention. [B, T, D] -> [B, T, D]"""

    def __init__(self, dim: int, attn: nn.Module, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Pixels [B, 3, S, S] -> patches [B, (S / patch)^2, D], row by row; a stem comes first if there is one."""

    def __init__(self, patch: int, dim: int, stem: Stem | None = None) -> None:
        super().__init__()
        self.stem = stem
        side, channels = (patch, 3) if stem is None else stem.seen(patch)
        self.proj = nn.Conv2d(channels, dim, side, stride=side)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels if self.stem is None else self.stem(pixels)
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """EVA-CLIP's ViT without its last block and final norm: pixels [B, 3, S, S] -> [B, 1 + patches, D]."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        dim, patches = config.vit_embed_dim, (config.img_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, dim))
        self.patch_embed = PatchEmbed(config.patch_size, dim, Stem(config.stem) if config.stem else None)
        inner = int(dim * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(dim, EvaAttention(dim, config.vit_heads), inner) for _ in range(config.vit_depth)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x
