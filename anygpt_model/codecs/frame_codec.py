"""A small neural audio codec that thinks in frames: log-mel in, residual codes, inverse STFT out.

Samples -> log-mel at the hop rate, stacked to the frame rate -> ConvNeXt blocks -> residual codebooks -> ConvNeXt
blocks -> magnitude and phase of each hop -> overlap-add. No recurrence and no strided convolution over samples, so it
trains in minutes on a CPU. One configuration serves speech, another music. Knows nothing of training, vocabularies and
files of sound; its level 1 may be pulled to a recogniser's features in training, by a head that the trainer keeps.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from ..checkpoints import load_tensors
from ..errors import CheckpointError

MODEL_TYPE = "frame_codec"
WEIGHTS = ("model.safetensors", "ckpt.safetensors")
"""Names that the weights may have: the first in a music folder, the second where SpeechTokenizer's would lie."""
LOG_FLOOR = 1e-4
LOG_CENTRE, LOG_SPREAD = -4.0, 3.0
"""Log-mels of speech and music at normal levels lie around this centre; the net sees them shifted and scaled."""
MAX_MAGNITUDE = 100.0


@dataclass(frozen=True, slots=True)
class FrameCodecConfig:
    """Sizes of a frame codec. hop and window are samples; one code frame is `hop * stack` samples."""

    sample_rate: int = 16_000
    hop: int = 160
    stack: int = 2
    window: int = 640
    n_mels: int = 100
    width: int = 256
    latent: int = 128
    encoder_blocks: int = 5
    decoder_blocks: int = 6
    upsampled_blocks: int = 2
    num_codebooks: int = 8
    cardinality: int = 1024
    semantic_width: int = 384
    """Width of the features that level 1 is pulled to in training; 0: none."""

    def __post_init__(self) -> None:
        if (self.window - self.hop) % 2 or self.window < self.hop:
            raise CheckpointError(
                f"A frame codec with window {self.window} and hop {self.hop} can't be built; "
                "give a window that is the hop plus an even number of samples."
            )

    @property
    def frame_size(self) -> int:
        """Samples of one code frame."""
        return self.hop * self.stack

    @property
    def frame_rate(self) -> float:
        """Code frames a second."""
        return self.sample_rate / self.frame_size


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer perceptron a frame, added to the input. [B, T, width]."""

    def __init__(self, width: int, expansion: int = 3, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.grow = nn.Linear(width, width * expansion)
        self.shrink = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        changed: Tensor = x + self.scale * self.shrink(F.gelu(self.grow(self.norm(hidden))))
        return changed


class LogMel(nn.Module):
    """Samples [B, T] -> log-mel [B, T / hop, n_mels]: T is a multiple of the hop; frames are centred on their hop."""

    def __init__(self, sample_rate: int, window: int, hop: int, n_mels: int) -> None:
        super().__init__()
        self.hop, self.window_length = hop, window
        filters = melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, "slaney", "slaney")
        self.filters: Tensor
        self.window: Tensor
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        edge = (self.window_length - self.hop) // 2
        pieces = F.pad(wave.float(), (edge, edge)).unfold(-1, self.window_length, self.hop)
        spectrum = torch.view_as_real(torch.fft.rfft(pieces * self.window))
        # Not abs(): on complex numbers it is scalar code, a seventh of a training step.
        magnitude = spectrum.square().sum(dim=-1).clamp(min=1e-12).sqrt()
        return torch.log(magnitude @ self.filters + LOG_FLOOR)


class Encoder(nn.Module):
    """Samples [B, frames * frame_size] -> latents [B, frames, latent]."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.stack = config.stack
        self.mel = LogMel(config.sample_rate, config.window, config.hop, config.n_mels)
        self.inward = nn.Linear(config.n_mels * config.stack, config.width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config.width) for _ in range(config.encoder_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.outward = nn.Linear(config.width, config.latent)

    def forward(self, wave: Tensor) -> Tensor:
        mel = (self.mel(wave) - LOG_CENTRE) / LOG_SPREAD
        hidden = self.inward(mel.reshape(mel.shape[0], mel.shape[1] // self.stack, -1))
        for block in self.blocks:
            hidden = block(hidden)
        latents: Tensor = self.outward(self.norm(hidden))
        return latents


class Decoder(nn.Module):
    """Latents [B, frames, latent] -> samples [B, frames * frame_size], through an inverse STFT."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        width, self.hop, self.window_length, self.stack = config.width, config.hop, config.window, config.stack
        self.inward = nn.Conv1d(config.latent, width, 7, padding=3)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(config.decoder_blocks))
        self.up = nn.Linear(width, width * config.stack)
        self.upsampled = nn.ModuleList(ConvNeXtBlock(width) for _ in range(config.upsampled_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.window + 2)
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.inward(latents.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.up(hidden).reshape(hidden.shape[0], hidden.shape[1] * self.stack, -1)
        for block in self.upsampled:
            hidden = block(hidden)
        magnitude, phase = self.head(self.norm(hidden)).float().chunk(2, dim=-1)
        magnitude = torch.exp(magnitude - 2).clamp(max=MAX_MAGNITUDE)
        spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        return self._overlap_add(torch.fft.irfft(spectrum, n=self.window_length, dim=-1) * self.window)

    def _overlap_add(self, pieces: Tensor) -> Tensor:
        """Pieces [B, hops, window] -> samples [B, hops * hop], each sample divided by the windows that met there."""
        edge = (self.window_length - self.hop) // 2
        weights = (self.window**2).expand(1, pieces.shape[1], -1)
        total, weight = self._folded(pieces), self._folded(weights)
        return (total / weight.clamp(min=1e-3))[:, edge : total.shape[1] - edge]

    def _folded(self, pieces: Tensor) -> Tensor:
        length = (pieces.shape[1] - 1) * self.hop + self.window_length
        return F.fold(pieces.transpose(1, 2), (1, length), (1, self.window_length), stride=(1, self.hop))[:, 0, 0]


class ResidualCodebooks(nn.Module):
    """Codebooks [num_codebooks, cardinality, latent]: each level takes the vector nearest to what is still left."""

    def __init__(self, num_codebooks: int, cardinality: int, latent: int) -> None:
        super().__init__()
        self.vectors: Tensor
        self.register_buffer("vectors", torch.randn(num_codebooks, cardinality, latent) * 0.1)

    def nearest(self, level: int, residual: Tensor) -> Tensor:
        """Indices [N] of level `level`'s vectors nearest to residual [N, latent]."""
        book = self.vectors[level]
        return (2 * residual @ book.t() - (book**2).sum(1)).argmax(dim=-1)

    def encode(self, latents: Tensor) -> Tensor:
        """Codes [B, num_codebooks, frames] of latents [B, frames, latent]."""
        residual = latents.float().reshape(-1, latents.shape[-1])
        codes = []
        for level in range(self.vectors.shape[0]):
            chosen = self.nearest(level, residual)
            residual = residual - self.vectors[level][chosen]
            codes.append(chosen.view(latents.shape[:2]))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents [B, frames, latent]: the sum of the first `codes.shape[1]` levels' vectors."""
        latents = torch.zeros((), device=codes.device)
        for level in range(codes.shape[1]):
            latents = latents + self.vectors[level][codes[:, level]]
        return latents


class FrameCodec(nn.Module):
    """The codec: `encode` and `decode` for use, `encoder`, `codebooks`, `decoder` for training."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebooks = ResidualCodebooks(config.num_codebooks, config.cardinality, config.latent)
        self.decoder = Decoder(config)

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Code frames a second."""
        return self.config.frame_rate

    @property
    def frame_size(self) -> int:
        """Samples of one code frame."""
        return self.config.frame_size

    @property
    def num_codebooks(self) -> int:
        """Levels of codes."""
        return self.config.num_codebooks

    @property
    def cardinality(self) -> int:
        """How many values one code can take."""
        return self.config.cardinality

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Codes int64 [B, num_codebooks, ceil(T / frame_size)] of samples [B, T] (the end is padded with silence)."""
        whole = F.pad(wave, (0, -wave.shape[-1] % self.frame_size))
        return self.codebooks.encode(self.encoder(whole))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Samples float32 [B, frames * frame_size] of codes [B, levels, frames]: the first level alone will do."""
        samples: Tensor = self.decoder(self.codebooks.decode(codes))
        return samples

    def save_folder(self, folder: Path, weights: str = WEIGHTS[0]) -> None:
        """Writes config.json and the weights (16-bit, under the name that the folder's layout has) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().half().contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, folder / weights)
        (folder / weights).chmod(0o644)  # safetensors leaves it to its owner alone
        about = {"model_type": MODEL_TYPE, **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> FrameCodec:
        """The codec of `folder`, computing in float32. Raises CheckpointError where config or tensors don't fit."""
        config = config_from_json(json.loads((folder / "config.json").read_text("utf-8")))
        codec = cls(config)
        weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
        if weights is None:
            raise CheckpointError(
                f"{folder} has none of {', '.join(WEIGHTS)}; a frame codec's folder holds one of them."
            )
        try:
            codec.load_state_dict({name: tensor.float() for name, tensor in load_tensors(weights).items()})
        except RuntimeError as mismatch:
            reason = str(mismatch).splitlines()[-1].strip()
            raise CheckpointError(f"{weights} doesn't fit its config.json: {reason}") from mismatch
        return codec.to(device).eval()


def is_frame_codec(config: dict[str, Any]) -> bool:
    """Whether a config.json describes a frame codec."""
    return config.get("model_type") == MODEL_TYPE


def config_from_json(config: dict[str, Any]) -> FrameCodecConfig:
    """The sizes in a config.json. Raises CheckpointError for another model type or an unknown field."""
    known = {field.name for field in fields(FrameCodecConfig)}
    given = {name: value for name, value in config.items() if name != "model_type"}
    unknown = sorted(set(given) - known)
    if not is_frame_codec(config) or unknown:
        got = f"unknown fields {unknown}" if unknown else f"model_type {config.get('model_type')!r}"
        raise CheckpointError(f"A frame codec's config.json came with {got}; it takes {MODEL_TYPE!r}, {sorted(known)}.")
    return FrameCodecConfig(**given)
