"""SoundStorm as AnyGPT publishes it: a conformer that fills in the acoustic levels 2 to 8 of speech from level 1.

Frames start masked, level by level the network fills them in; frames of a voice prompt are given and lend their voice.
The tensor names are the published file's. Knows nothing of samples and of the codec that the codes belong to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class SoundStormConfig:
    """Sizes; the defaults are the published checkpoint's, which comes without a config.json."""

    codebook_size: int = 1024
    num_quantizers: int = 7
    num_semantic_token_ids: int = 1024
    dim: int = 1024
    depth: int = 12
    heads: int = 8
    dim_head: int = 128
    ff_mult: int = 4
    conv_expansion_factor: int = 2
    conv_kernel_size: int = 31

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> SoundStormConfig:
        """The sizes in a config.json; other fields are passed over."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in config.items() if name in known})


class _Named(nn.Module):
    """Gives `inner` the published name `<here>.fn`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.fn = inner

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fn(x)
        return made


class FeedForward(nn.Module):
    """Linear, swish, linear."""

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, dim * mult), nn.SiLU(), nn.Identity(), nn.Linear(dim * mult, dim), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x)
        return made


class Attention(nn.Module):
    """Self-attention with rotary positions over the whole head width."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        key, value = self.to_kv(x).chunk(2, dim=-1)
        query, key, value = (self._split(part) for part in (self.to_q(x), key, value))
        allowed = None if mask is None else mask[:, None, None]
        seen = F.scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=allowed)
        made: Tensor = self.to_out(seen.transpose(1, 2).flatten(2))
        return made

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def rotated(x: Tensor) -> Tensor:
    """Heads [B, H, N, D] turned by their positions: the first half of D is paired with the second."""
    length, width = x.shape[-2:]
    step = 10_000 ** (-torch.arange(0, width, 2, device=x.device).float() / width)
    angle = torch.outer(torch.arange(length, device=x.device).float(), step).repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    turned = x.float() * angle.cos() + torch.cat((-second, first), dim=-1).float() * angle.sin()
    return turned.to(x.dtype)


class ChannelNorm(nn.Module):
    """Normalises the channels of each frame of [B, C, N] and scales them; there is no shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        floor = 1e-6 if x.dtype == torch.float32 else 1e-4
        variance = x.var(dim=1, unbiased=False, keepdim=True)
        return (x - x.mean(dim=1, keepdim=True)) * variance.clamp(min=floor).rsqrt() * self.gamma


class Depthwise(nn.Module):
    """A depthwise convolution over time that doesn't hear masked frames."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.pad = (kernel // 2, kernel // 2 - (kernel + 1) % 2)
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            made: Tensor = self.conv(F.pad(x, self.pad))
            return made
        heard = x.masked_fill(~mask[:, None], 0.0)
        made = self.conv(F.pad(heard, self.pad))
        return made.masked_fill(~mask[:, None], 0.0)


class Convolution(nn.Module):
    """The conformer's convolution: gated, depthwise, normalised. [B, N, dim]."""

    def __init__(self, dim: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner = dim * expansion
        self.net1 = nn.ModuleDict({"0": nn.LayerNorm(dim), "2": nn.Conv1d(dim, inner * 2, 1)})
        self.ds_conv = Depthwise(inner, kernel)
        self.net2 = nn.ModuleDict({"1": ChannelNorm(inner), "2": nn.Conv1d(inner, dim, 1)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        gated = F.glu(self.net1["2"](self.net1["0"](x).transpose(1, 2)), dim=1)
        heard = self.net2["1"](F.silu(self.ds_conv(gated, mask)))
        made: Tensor = self.net2["2"](heard).transpose(1, 2)
        return made


class _Normed(nn.Module):
    """A layer norm and what it feeds, by their published names."""

    def __init__(self, dim: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = inner

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        made: Tensor = self.fn(self.norm(x), *context)
        return made


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, a norm. [B, N, dim]."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        dim = config.dim
        self.ff1 = _Named(_Normed(dim, FeedForward(dim, config.ff_mult)))
        self.attn = _Normed(dim, Attention(dim, config.heads, config.dim_head))
        self.conv = Convolution(dim, config.conv_expansion_factor, config.conv_kernel_size)
        self.ff2 = _Named(_Normed(dim, FeedForward(dim, config.ff_mult)))
        self.post_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(x, mask)
        x = x + self.conv(x, mask)
        x = x + 0.5 * self.ff2(x)
        made: Tensor = self.post_norm(x)
        return made


class Conformer(nn.Module):
    """Blocks one after another."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConformerBlock(config) for _ in range(config.depth))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class LevelLogits(nn.Module):
    """One matrix a level: [B, N, levels, dim] -> [B, N, levels, size]."""

    def __init__(self, levels: int, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(levels, dim, size) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(1, 1, levels, size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bnld,ldc->bnlc", x, self.weight) + self.bias


class Net(nn.Module):
    """Masked codes and a condition in, what the masked codes may be out."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        levels, size, dim = config.num_quantizers, config.codebook_size, config.dim
        self.levels, self.stride = levels, size + 1
        self.code_embeds = nn.Embedding(levels * self.stride, dim)
        self.conformer = Conformer(config)
        self.heads = nn.ModuleList([nn.Linear(dim, dim * levels)])
        self.to_logits = nn.ModuleDict({"0": nn.LayerNorm(dim), "2": LevelLogits(levels, dim, size)})

    def embeds(self, codes: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each level of each frame is thought to be: [B, N, levels, dim] for codes [B, N, levels]."""
        offsets = torch.arange(self.levels, device=codes.device) * self.stride
        summed = self.code_embeds(codes + offsets).sum(dim=2) + condition
        made: Tensor = self.heads[0](self.conformer(summed, mask))
        return made.view(*made.shape[:2], self.levels, -1)

    def forward(self, codes: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, N, levels, size]."""
        made: Tensor = self.to_logits["2"](self.to_logits["0"](self.embeds(codes, condition, mask)))
        return made


class SoundStorm(nn.Module):
    """Level 1 of speech in, all eight levels out."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        self.config = config
        self.mask_id = config.codebook_size
        self.net = Net(config)
        self.semantic_token_emb = nn.Embedding(config.num_semantic_token_ids, config.dim)

    def forward(self, codes: Tensor, semantic: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, N, levels, size] for codes [B, N, levels] (mask_id where unknown) and semantic [B, N].

        mask [B, N]: True on real frames, False on padding; None: all are real.
        """
        made: Tensor = self.net(codes, self.semantic_token_emb(semantic), mask)
        return made

    @torch.inference_mode()
    def generate(
        self,
        semantic: Tensor,
        prompt: Tensor | None = None,
        steps: int = 3,
        greedy: bool = True,
        generator: torch.Generator | None = None,
        noise: float = 1.0,
    ) -> Tensor:
        """All levels [B, n, 1 + levels] of semantic [B, n], in the voice of prompt [B, m, 1 + levels].

        steps: rounds in which level 2 is filled in; the other levels take one each. With one step nothing is drawn at
        random; with more, `generator` (None: torch's own) draws noise that `noise` scales (0: none).
        """
        semantic = semantic.long()
        prompt = (
            semantic.new_zeros(len(semantic), 0, 1 + self.config.num_quantizers) if prompt is None else prompt.long()
        )
        heard = prompt.shape[1]
        length = heard + semantic.shape[1]
        condition = self.semantic_token_emb(torch.cat((prompt[:, :, 0], semantic), dim=1))
        codes = F.pad(prompt[:, :, 1:], (0, 0, 0, semantic.shape[1]), value=self.mask_id)
        open_ = torch.ones_like(codes, dtype=torch.bool)
        open_[:, :heard] = False
        codes = self._fill_first_level(codes, condition, open_, _schedule(length, steps), greedy, generator, noise)
        for level in range(1, self.config.num_quantizers):
            best = self.net(codes, condition).argmax(dim=-1)
            # Frames of the prompt are overwritten too: a quirk of the original, kept for equal results.
            codes[:, :, level:] = best[:, :, level:]
        return torch.cat((semantic[:, :, None], codes[:, heard:]), dim=-1)

    def _fill_first_level(
        self,
        codes: Tensor,
        condition: Tensor,
        open_: Tensor,
        counts: list[int],
        greedy: bool,
        generator: torch.Generator | None,
        noise: float,
    ) -> Tensor:
        """Fills every level in, keeps the best guesses of the first, masks the `counts[i]` worst again, and so on."""
        masked = open_
        steps = len(counts) - 1
        for i, count in enumerate(counts):
            logits = self.net(codes, condition)
            if count == 0 and greedy:
                return torch.where(masked, logits.argmax(dim=-1), codes)
            likely = most_likely(logits)
            ids = (likely / max(i / steps, 1e-10) + noise * gumbel(logits, generator)).argmax(dim=-1)
            codes = torch.where(masked, ids, codes)
            if count == 0:
                return codes
            doubt = 1 - likely.softmax(dim=-1).gather(-1, ids[..., None])[..., 0]
            rank = doubt.flatten(1).argsort(dim=-1, descending=True).argsort(dim=-1).view_as(doubt)
            masked = rank < count
            masked[:, :, 1:] = True
            masked &= open_
            codes = codes.masked_fill(masked, self.mask_id)
        return codes


def _schedule(length: int, steps: int) -> list[int]:
    """How many positions are masked again after each round: all of `length` at first, none at last."""
    return [int(length * math.cos(math.pi * i / (2 * steps))) for i in range(steps)] + [0]


def most_likely(logits: Tensor, share: float = 1 - 0.7) -> Tensor:
    """`logits` with everything but the likeliest `share` of the last axis at minus infinity."""
    kept, where = logits.topk(math.ceil(share * logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, where, kept)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise in the shape of `like`, drawn in the order of its axes however `like` lies in memory."""
    drawn = torch.empty(like.shape, dtype=like.dtype, device=like.device).uniform_(0, 1, generator=generator)
    return -torch.log(-torch.log(drawn + 1e-10) + 1e-10)
