"""SpeechTokenizer beside a plain reading of its description, by the published names alone: other strides and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anyloom.anygpt_model.codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig

Weights = dict[str, Tensor]
SIZES: list[dict[str, Any]] = [
    {"strides": [4, 2], "activation": "Snake"},
    {"strides": [5, 3, 2], "activation": "ELU", "lstm_layers": 1, "n_q": 5},
    {"strides": [8, 5, 4, 2], "activation": "Snake", "n_filters": 2},
    {"strides": [3], "activation": "Snake", "bidirectional": False, "n_residual_layers": 2, "dilation_base": 3},
    {"strides": [2, 4], "activation": "ELU", "lstm_layers": 0, "residual_kernel_size": 5},
]


def build(sizes: dict[str, Any], seed: int) -> SpeechTokenizer:
    torch.manual_seed(seed)
    base = {"n_filters": 4, "dimension": 8, "semantic_dimension": 6, "codebook_size": 24, "n_q": 3}
    tokenizer = SpeechTokenizer(SpeechTokenizerConfig.from_json(base | sizes)).eval()
    for name, tensor in tokenizer.state_dict().items():  # ones and zeros would hide what they do
        if name.endswith(("weight_g", "bias", "alpha")):
            tensor.mul_(1 + 0.3 * torch.rand_like(tensor)).add_(0.05 * torch.randn_like(tensor))
    return tokenizer


def weight(w: Weights, name: str) -> Tensor:
    direction = w[f"{name}.weight_v"]
    length = direction.pow(2).sum((1, 2), keepdim=True).sqrt()
    return w[f"{name}.weight_g"] * direction / length


def mirrored(x: Tensor, left: int, right: int) -> Tensor:
    """x [C, T], its ends mirrored without repeating the last sample; too short a sound is followed by zeros first."""
    short = max(0, max(left, right) + 1 - x.shape[1])
    longer = torch.cat([x, torch.zeros(len(x), short)], 1)
    last = longer.shape[1] - 1
    places = [abs(n) if n <= last else 2 * last - n for n in range(-left, longer.shape[1] + right)]
    return longer[:, places][:, : x.shape[1] + left + right]


def conv(x: Tensor, w: Weights, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    kernel, size = weight(w, f"{name}.conv.conv"), w[f"{name}.conv.conv.weight_v"].shape[2]
    total = (size - 1) * dilation - (stride - 1)
    right = total // 2
    windows = math.ceil((x.shape[1] - size + total) / stride + 1)
    extra = (windows - 1) * stride + size - total - x.shape[1]
    padded = mirrored(x, total - right, right + extra)
    reach = (size - 1) * dilation
    made = [
        (kernel * padded[:, start : start + reach + 1 : dilation]).sum((1, 2))
        for start in range(0, padded.shape[1] - reach, stride)
    ]
    return torch.stack(made, 1) + w[f"{name}.conv.conv.bias"][:, None]


def raised(x: Tensor, w: Weights, name: str, stride: int) -> Tensor:
    kernel, size = weight(w, f"{name}.convtr.convtr"), 2 * stride
    made = torch.zeros(kernel.shape[1], (x.shape[1] - 1) * stride + size)
    for n in range(x.shape[1]):
        made[:, n * stride : n * stride + size] += torch.einsum("i,iok->ok", x[:, n], kernel)
    made = made + w[f"{name}.convtr.convtr.bias"][:, None]
    right = (size - stride) // 2
    return made[:, size - stride - right : made.shape[1] - right]


def acted(x: Tensor, w: Weights, name: str, kind: str) -> Tensor:
    if kind == "ELU":
        return torch.where(x > 0, x, x.exp() - 1)
    alpha = w[f"{name}.alpha"][0]
    return x + (alpha * x).sin() ** 2 / (alpha + 1e-9)


def residual(x: Tensor, w: Weights, name: str, kind: str, dilation: int) -> Tensor:
    inner = conv(acted(x, w, f"{name}.block.0", kind), w, f"{name}.block.1", dilation=dilation)
    inner = conv(acted(inner, w, f"{name}.block.2", kind), w, f"{name}.block.3")
    return conv(x, w, f"{name}.shortcut") + inner


def remembered(x: Tensor, w: Weights, name: str, layers: int, both_ways: bool) -> Tensor:
    told = x
    for layer in range(layers):
        ways = ["", "_reverse"] if both_ways else [""]
        told = torch.cat([cell(told, w, f"{name}.lstm", f"_l{layer}{way}", bool(way)) for way in ways])
    return told + (torch.cat([x, x]) if both_ways else x)


def cell(x: Tensor, w: Weights, name: str, end: str, backwards: bool) -> Tensor:
    width = w[f"{name}.weight_hh{end}"].shape[1]
    state, memory = torch.zeros(width), torch.zeros(width)
    made = torch.zeros(width, x.shape[1])
    for n in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
        gates = w[f"{name}.weight_ih{end}"] @ x[:, n] + w[f"{name}.bias_ih{end}"]
        gates = gates + w[f"{name}.weight_hh{end}"] @ state + w[f"{name}.bias_hh{end}"]
        take, keep, new, give = gates.chunk(4)
        memory = keep.sigmoid() * memory + take.sigmoid() * new.tanh()
        state = give.sigmoid() * memory.tanh()
        made[:, n] = state
    return made


class Numbers:
    """Counts through a stack of layers, as the published names do."""

    def __init__(self, stack: str) -> None:
        self.stack, self.next = stack, -1

    def __call__(self) -> str:
        self.next += 1
        return f"{self.stack}.model.{self.next}"


def blocks(x: Tensor, w: Weights, name: Callable[[], str], c: SpeechTokenizerConfig) -> Tensor:
    for i in range(c.n_residual_layers):
        x = residual(x, w, name(), c.activation, c.dilation_base**i)
    return x


def latents_of(wave: Tensor, w: Weights, c: SpeechTokenizerConfig) -> Tensor:
    name = Numbers("encoder")
    x = conv(wave[None], w, name())
    for stride in c.strides[::-1]:
        x = acted(blocks(x, w, name, c), w, name(), c.activation)
        x = conv(x, w, name(), stride)
    if c.lstm_layers:
        x = remembered(x, w, name(), c.lstm_layers, c.bidirectional)
    return conv(acted(x, w, name(), c.activation), w, name())


def wave_of(latents: Tensor, w: Weights, c: SpeechTokenizerConfig) -> Tensor:
    name = Numbers("decoder")
    x = conv(latents, w, name())
    if c.lstm_layers:
        x = remembered(x, w, name(), c.lstm_layers, both_ways=False)
    for stride in c.strides:
        x = raised(acted(x, w, name(), c.activation), w, name(), stride)
        x = blocks(x, w, name, c)
    return conv(acted(x, w, name(), c.activation), w, name())[0]


def codes_of(latents: Tensor, w: Weights, c: SpeechTokenizerConfig) -> Tensor:
    rest, codes = latents.T, []
    for level in range(c.n_q):
        table = w[f"quantizer.vq.layers.{level}._codebook.embed"]
        chosen = torch.stack([(row - table).pow(2).sum(1).argmin() for row in rest])
        rest = rest - table[chosen]
        codes.append(chosen)
    return torch.stack(codes)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("frames", [0.02, 1.0, 3.4, 9.0])
@torch.inference_mode()
def test_every_stage_of_other_shapes(sizes: dict[str, Any], frames: float) -> None:
    tokenizer = build(sizes, 5 + int(frames))
    w, c = tokenizer.state_dict(), tokenizer.config
    wave = torch.randn(max(1, round(frames * c.frame_size))) * 0.3
    latents = latents_of(wave, w, c)
    torch.testing.assert_close(tokenizer.latents(wave[None])[0], latents, rtol=0, atol=1e-5)
    codes = codes_of(latents, w, c)
    assert torch.equal(tokenizer.encode(wave[None])[0], codes)
    summed = sum(w[f"quantizer.vq.layers.{n}._codebook.embed"][codes[n]] for n in range(c.n_q))
    assert isinstance(summed, Tensor)
    torch.testing.assert_close(tokenizer.decode(codes[None])[0], wave_of(summed.T, w, c), rtol=0, atol=1e-5)
    first = w["quantizer.vq.layers.0._codebook.embed"][codes[0]]
    told = first @ w["transform.weight"].T + w["transform.bias"]
    torch.testing.assert_close(tokenizer.semantic(wave[None])[0], told, rtol=0, atol=1e-5)
