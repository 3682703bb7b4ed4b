"""EnCodec in the layout of Hugging Face (facebook/encodec_32khz), carried by the modules of the `encodec` package.

The package's modules hold the published tensors exactly: compared layer by layer with transformers' model, every output
differs by 0 and every code is equal. Only the tensors' names differ, and `published_name` says how. So the product
leans on one small codec library rather than on a model class that moves with a framework's versions. Knows no sound
file, no span and no vocabulary.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import load_tensors
from ..errors import CheckpointError


@dataclass(frozen=True, slots=True)
class EncodecConfig:
    """Sizes of an EnCodec, named as in its config.json; the defaults are those of encodec_32khz."""

    sampling_rate: int = 32_000
    hidden_size: int = 128
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 4)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = False
    use_conv_shortcut: bool = False
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 2048
    target_bandwidths: tuple[float, ...] = (2.2,)

    @property
    def frame_size(self) -> int:
        """Samples of one code frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Code frames a second."""
        return math.ceil(self.sampling_rate / self.frame_size)

    @property
    def num_codebooks(self) -> int:
        """Codebooks that fit the first bandwidth, as the original chooses them when not told."""
        bits = math.log2(self.codebook_size) * self.frame_rate
        return max(1, math.floor(self.target_bandwidths[0] * 1000 / bits))

    @property
    def stored_codebooks(self) -> int:
        """Codebooks in a published file: those of the largest bandwidth, counted at ten bits whatever their size."""
        return int(1000 * self.target_bandwidths[-1] // (self.frame_rate * 10))


def config_from_json(given: dict[str, Any]) -> EncodecConfig:
    """The sizes in a config.json. Raises CheckpointError for a kind that isn't carried (stereo, normalised …)."""
    for name, carried in (
        ("model_type", "encodec"),
        ("audio_channels", 1),
        ("norm_type", "weight_norm"),
        ("normalize", False),
        ("chunk_length_s", None),
    ):
        if given.get(name, carried) != carried:
            raise CheckpointError(
                f"The music codec's config.json has {name} {given[name]!r}; {carried!r} is taken, as in encodec_32khz."
            )
    if given.get("codebook_dim", given.get("hidden_size")) != given.get("hidden_size"):
        raise CheckpointError("The music codec's codebook_dim differs from its hidden_size; they must be equal.")
    known: dict[str, Any] = {}
    for field in fields(EncodecConfig):
        value = given.get(field.name)
        if value is not None:
            known[field.name] = tuple(value) if isinstance(value, list) else value
    return EncodecConfig(**known)


class Encodec(nn.Module):
    """Encoder, codebooks and decoder; samples [B, T] <-> codes [B, num_codebooks, frames]."""

    def __init__(self, config: EncodecConfig, levels: int | None = None) -> None:
        """levels: codebooks to hold, at least `config.num_codebooks`; None: as many as a published file."""
        super().__init__()
        from encodec.modules import SEANetDecoder, SEANetEncoder
        from encodec.quantization import ResidualVectorQuantizer

        self.config = config
        sizes: dict[str, Any] = {
            "dimension": config.hidden_size,
            "n_filters": config.num_filters,
            "n_residual_layers": config.num_residual_layers,
            "ratios": list(config.upsampling_ratios),
            "kernel_size": config.kernel_size,
            "last_kernel_size": config.last_kernel_size,
            "residual_kernel_size": config.residual_kernel_size,
            "dilation_base": config.dilation_growth_rate,
            "causal": config.use_causal_conv,
            "true_skip": not config.use_conv_shortcut,
            "pad_mode": config.pad_mode,
            "compress": config.compress,
            "lstm": config.num_lstm_layers,
        }
        with warnings.catch_warnings():
            # The package uses the older of torch's two weight norms, whose tensors are also the published ones.
            warnings.simplefilter("ignore", FutureWarning)
            self.encoder: nn.Module = SEANetEncoder(**sizes)
            self.decoder: nn.Module = SEANetDecoder(**sizes, trim_right_ratio=config.trim_right_ratio)
        self.quantizer: Any = ResidualVectorQuantizer(
            dimension=config.hidden_size, n_q=levels or config.stored_codebooks, bins=config.codebook_size
        )

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Codes int64 [B, num_codebooks, frames] of samples [B, T], T at least one frame."""
        codes: Tensor = self.quantizer.vq.encode(self.encoder(wave[:, None]), n_q=self.config.num_codebooks)
        return codes.transpose(0, 1)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Samples float32 [B, frames * frame_size] of codes [B, levels, frames]."""
        samples: Tensor = self.decoder(self.quantizer.vq.decode(codes.transpose(0, 1)))
        return samples[:, 0]

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu") -> Encodec:
        """The codec of `folder` (config.json, model.safetensors), in float32.

        Raises CheckpointError where a tensor is missing, foreign or of another shape.
        """
        config = config_from_json(json.loads((folder / "config.json").read_text("utf-8")))
        file = folder / "model.safetensors"
        given = {old_style(name): tensor.float() for name, tensor in load_tensors(file).items()}
        # How many levels beyond those in use a file holds depends on the version that wrote it.
        stored = sum(name.startswith("quantizer.") and name.endswith(".codebook.embed") for name in given)
        codec = cls(config, max(stored, config.num_codebooks))
        names = {published_name(name): name for name in codec.state_dict()}
        _check_fit(file, {name: tuple(codec.state_dict()[own].shape) for name, own in names.items()}, given)
        codec.load_state_dict({own: given[name] for name, own in names.items()})
        return codec.to(device).eval()


def published_name(own: str) -> str:
    """What the published file calls the tensor that the package's modules call `own`."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", own)
    name = name.replace(".convtr.convtr.", ".conv.").replace(".conv.conv.", ".conv.")
    return name.replace("quantizer.vq.layers.", "quantizer.layers.").replace("._codebook.", ".codebook.")


def old_style(name: str) -> str:
    """Newer files name the two halves of a weight norm otherwise."""
    name = name.replace("parametrizations.weight.original0", "weight_g")
    return name.replace("parametrizations.weight.original1", "weight_v")


def _check_fit(file: Path, wanted: dict[str, tuple[int, ...]], given: dict[str, Tensor]) -> None:
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or foreign:
        which = f"lacks {missing[0]}" if missing else f"has a foreign tensor {foreign[0]}"
        raise CheckpointError(f"{file} {which} ({len(missing)} missing, {len(foreign)} foreign); fetch the file again.")
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise CheckpointError(
                f"{file} has {name} of shape {tuple(given[name].shape)}; its config.json asks {shape}."
            )
