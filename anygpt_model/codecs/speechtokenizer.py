"""SpeechTokenizer as published: a SEANet encoder and decoder around residual codebooks, by the published tensor names.

16 kHz samples become 8 codes for every 320 samples; level 1 carries what is said, levels 2 to 8 how it sounds. Both
published activations (Snake, ELU) are read from the configuration. Knows nothing of prompts, SoundStorm or training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError


@dataclass(frozen=True, slots=True)
class SpeechTokenizerConfig:
    """The fields of the published config.json that shape the network; the rest of that file is about training."""

    n_filters: int = 64
    strides: tuple[int, ...] = (8, 5, 4, 2)
    dimension: int = 1024
    semantic_dimension: int = 768
    bidirectional: bool = True
    dilation_base: int = 2
    residual_kernel_size: int = 3
    n_residual_layers: int = 1
    lstm_layers: int = 2
    activation: str = "Snake"
    codebook_size: int = 1024
    n_q: int = 8
    sample_rate: int = 16_000

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> SpeechTokenizerConfig:
        """The sizes in a config.json; fields about training are passed over."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in config.items() if name in known}
        if "strides" in given:
            given["strides"] = tuple(given["strides"])
        return cls(**given)

    @property
    def frame_size(self) -> int:
        """Samples of one frame."""
        return math.prod(self.strides)


class Snake(nn.Module):
    """x + sin²(αx) / α, one α a channel. [B, C, T]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x) ** 2 / (self.alpha + 1e-9)


def activation(kind: str, channels: int) -> nn.Module:
    """The activation that config.json names. Raises CheckpointError for one that isn't published."""
    if kind.lower() == "snake":
        return Snake(channels)
    if kind.lower() == "elu":
        return nn.ELU()
    raise CheckpointError(f"The speech tokenizer's config.json names activation {kind!r}; it takes 'Snake' or 'ELU'.")


class _Normed(nn.Module):
    """A convolution's weight as length and direction (weight_g, weight_v), the way the published files keep it."""

    def __init__(self, shape: tuple[int, int, int], outward: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(shape[1] * shape[2])
        self.weight_v = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.weight_g = nn.Parameter(self._length().detach())
        self.bias = nn.Parameter(torch.zeros(outward))

    def _length(self) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self.weight_v, dim=(1, 2), keepdim=True)
        return length

    @property
    def weight(self) -> Tensor:
        """The weight as used."""
        return self.weight_v * (self.weight_g / self._length())


class _NormedConv(_Normed):
    """Convolves what is already padded."""

    def forward(self, x: Tensor, stride: int, dilation: int) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, stride, dilation=dilation)


class _NormedTransposedConv(_Normed):
    """Convolves the other way, untrimmed."""

    def forward(self, x: Tensor, stride: int) -> Tensor:
        return F.conv_transpose1d(x, self.weight, self.bias, stride)


class Conv(nn.Module):
    """A convolution that keeps ceil(T / stride) frames: reflected at both ends, a little more on the left."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.conv = nn.ModuleDict({"conv": _NormedConv((outward, inward, kernel), outward)})

    def forward(self, x: Tensor) -> Tensor:
        total = (self.kernel - 1) * self.dilation - (self.stride - 1)
        right = total // 2
        steps = math.ceil((x.shape[-1] - self.kernel + total) / self.stride + 1) - 1
        extra = steps * self.stride + self.kernel - total - x.shape[-1]
        padded = reflected(x, total - right, right + extra)
        made: Tensor = self.conv["conv"](padded, self.stride, self.dilation)
        return made


class TransposedConv(nn.Module):
    """A transposed convolution, trimmed to exactly `stride` times as many samples."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride, self.trim = stride, kernel - stride
        self.convtr = nn.ModuleDict({"convtr": _NormedTransposedConv((inward, outward, kernel), outward)})

    def forward(self, x: Tensor) -> Tensor:
        longer: Tensor = self.convtr["convtr"](x, self.stride)
        right = self.trim // 2
        return longer[..., self.trim - right : longer.shape[-1] - right]


def reflected(x: Tensor, left: int, right: int) -> Tensor:
    """`x` mirrored at both ends; what is too short to be mirrored is first lengthened with zeros, and cut again."""
    short = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, short)), (left, right), "reflect")
    return padded[..., : padded.shape[-1] - short]


class ResidualBlock(nn.Module):
    """Two activated convolutions through half the channels, beside a convolved shortcut."""

    def __init__(self, channels: int, kernel: int, dilation: int, kind: str) -> None:
        super().__init__()
        hidden = channels // 2
        self.block = nn.Sequential(
            activation(kind, channels),
            Conv(channels, hidden, kernel, dilation=dilation),
            activation(kind, hidden),
            Conv(hidden, channels, 1),
        )
        self.shortcut = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.shortcut(x) + self.block(x)
        return summed


class SkippedLSTM(nn.Module):
    """An LSTM over time with its input added; a bidirectional one doubles the channels. [B, C, T]."""

    def __init__(self, channels: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        told, _ = self.lstm(steps)
        if self.lstm.bidirectional:
            steps = steps.repeat(1, 1, 2)
        summed: Tensor = told + steps
        return summed.permute(1, 2, 0)


class Stack(nn.Module):
    """A numbered run of layers: the published names count through it."""

    def __init__(self, layers: Iterator[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        return made


def _residual_blocks(config: SpeechTokenizerConfig, channels: int) -> Iterator[nn.Module]:
    for i in range(config.n_residual_layers):
        yield ResidualBlock(channels, config.residual_kernel_size, config.dilation_base**i, config.activation)


def encoder_layers(config: SpeechTokenizerConfig) -> Iterator[nn.Module]:
    """Samples [B, 1, T] -> latents [B, dimension, frames]."""
    channels = config.n_filters
    yield Conv(1, channels, 7)
    for stride in reversed(config.strides):
        yield from _residual_blocks(config, channels)
        yield activation(config.activation, channels)
        yield Conv(channels, channels * 2, stride * 2, stride)
        channels *= 2
    if config.lstm_layers:
        yield SkippedLSTM(channels, config.lstm_layers, config.bidirectional)
        channels *= 2 if config.bidirectional else 1
    yield activation(config.activation, channels)
    yield Conv(channels, config.dimension, 7)


def decoder_layers(config: SpeechTokenizerConfig) -> Iterator[nn.Module]:
    """Latents [B, dimension, frames] -> samples [B, 1, frames * frame_size]."""
    channels = config.n_filters * 2 ** len(config.strides)
    yield Conv(config.dimension, channels, 7)
    if config.lstm_layers:
        yield SkippedLSTM(channels, config.lstm_layers, bidirectional=False)
    for stride in config.strides:
        yield activation(config.activation, channels)
        yield TransposedConv(channels, channels // 2, stride * 2, stride)
        channels //= 2
        yield from _residual_blocks(config, channels)
    yield activation(config.activation, channels)
    yield Conv(channels, 1, 7)


class Codebook(nn.Module):
    """One level's vectors [size, dimension] with the statistics that the published file keeps beside them."""

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.embed: Tensor
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", torch.randn(size, dimension))
        self.register_buffer("embed_avg", torch.zeros(size, dimension))

    def nearest(self, x: Tensor) -> Tensor:
        """Indices [N] of the vectors nearest to x [N, dimension]."""
        table = self.embed.t()
        distance = x.pow(2).sum(1, keepdim=True) - 2 * x @ table + table.pow(2).sum(0, keepdim=True)
        return (-distance).argmax(dim=-1)


class _Level(nn.Module):
    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self._codebook = Codebook(size, dimension)

    @property
    def codebook(self) -> Codebook:
        return self._codebook


class ResidualQuantizer(nn.Module):
    """Levels of codebooks, each naming what the levels before left over."""

    def __init__(self, levels: int, size: int, dimension: int) -> None:
        super().__init__()
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(_Level(size, dimension) for _ in range(levels))})

    @property
    def codebooks(self) -> list[Codebook]:
        """The levels' codebooks in order."""
        levels = self.vq["layers"]
        assert isinstance(levels, nn.ModuleList)
        return [level.codebook for level in levels if isinstance(level, _Level)]

    def encode(self, latents: Tensor) -> Tensor:
        """Codes [B, levels, frames] of latents [B, dimension, frames]."""
        residual = latents.transpose(1, 2)
        shape = residual.shape[:2]
        residual = residual.reshape(-1, residual.shape[-1])
        codes = []
        for codebook in self.codebooks:
            chosen = codebook.nearest(residual)
            residual = residual - F.embedding(chosen, codebook.embed)
            codes.append(chosen.view(shape))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor, first_level: int = 0) -> Tensor:
        """Latents [B, dimension, frames]: the sum of the vectors of codes [B, k, frames], level `first_level` first."""
        used = self.codebooks[first_level : first_level + codes.shape[1]]
        found = [F.embedding(codes[:, i], codebook.embed) for i, codebook in enumerate(used)]
        return torch.stack(found).sum(0).transpose(1, 2)


class SpeechTokenizer(nn.Module):
    """The published codec. Codes are [B, levels, frames]; samples are [B, T] at `sample_rate`."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(encoder_layers(config))
        self.quantizer = ResidualQuantizer(config.n_q, config.codebook_size, config.dimension)
        same = config.dimension == config.semantic_dimension
        self.transform: nn.Module = nn.Identity() if same else nn.Linear(config.dimension, config.semantic_dimension)
        self.decoder = Stack(decoder_layers(config))

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.config.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples of one frame."""
        return self.config.frame_size

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.sample_rate / self.config.frame_size

    @property
    def num_codebooks(self) -> int:
        """Levels of codes."""
        return self.config.n_q

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        return self.config.codebook_size

    @torch.inference_mode()
    def latents(self, wave: Tensor) -> Tensor:
        """Latents [B, dimension, frames] of samples [B, T], before quantisation."""
        made: Tensor = self.encoder(wave[:, None])
        return made

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Codes int64 [B, levels, ceil(T / frame_size)] of samples [B, T]."""
        return self.quantizer.encode(self.latents(wave))

    @torch.inference_mode()
    def decode(self, codes: Tensor, first_level: int = 0) -> Tensor:
        """Samples [B, frames * frame_size] of codes [B, k, frames] of the levels from `first_level` on."""
        made: Tensor = self.decoder(self.quantizer.decode(codes, first_level))
        return made[:, 0]

    @torch.inference_mode()
    def semantic(self, wave: Tensor) -> Tensor:
        """What level 1 says of samples [B, T], in the teacher's width: [B, frames, semantic_dimension]."""
        first = self.quantizer.decode(self.encode(wave)[:, :1])
        told: Tensor = self.transform(first.transpose(1, 2))
        return told
