"""An image embedding made visible: Stable unCLIP without CLIP's vision tower, a seed for each picture.

The pipeline is diffusers' own; what differs is that it starts from an embedding (so the 632 million parameters that
would compute one are never loaded) and that an unwanted embedding can be given. Knows no codes and no file format.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from ..checkpoints import load_tensors
from ..errors import CheckpointError
from .start import START, Start

OPTIONS = "synthesis.json"
"""Name of the file beside the pipeline that holds SynthesisOptions; absent means the published numbers."""


@dataclass(frozen=True, slots=True)
class SynthesisOptions:
    """How pictures are drawn; the defaults are the published ones. size: pixels a side, None for the network's own.

    A folder may hold a "start" (start.py): a guess of the latents from the embedding, from which a small denoiser with
    a shortened schedule sets out instead of from pure noise. Published models have none.
    """

    steps: int = 20
    guidance: float = 10.0
    noise_level: int = 0
    size: int | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> SynthesisOptions:
        """The options of a pipeline folder."""
        path = folder / OPTIONS
        if not path.exists():
            return cls()
        given = json.loads(path.read_text("utf-8"))
        return cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})


class EmbeddingPipeline(StableUnCLIPImg2ImgPipeline):  # type: ignore[misc]
    """Stable unCLIP that takes image embeddings only. `negative`: the embedding [1, F] to steer away from, or None."""

    negative: Tensor | None = None

    def _encode_image(
        self,
        image: None,
        device: torch.device,
        batch_size: int,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        noise_level: Tensor,
        generator: torch.Generator | None,
        image_embeds: Tensor,
    ) -> Tensor:
        """The class labels of the denoiser: noised embeddings, with the unconditional half first under guidance.

        Called by the pipeline's loop, with these names. [B, F] -> [B, 2 F] or [2 B, 2 F].
        """
        dtype = self.unet.dtype
        wanted = self.noise_image_embeddings(image_embeds.to(device, dtype), int(noise_level), generator=generator)
        if not do_classifier_free_guidance:
            return wanted  # type: ignore[no-any-return]
        if self.negative is None:
            return torch.cat([torch.zeros_like(wanted), wanted])
        negative = self.negative.to(device, dtype).expand(len(wanted), -1)
        return torch.cat([self.noise_image_embeddings(negative, 0, generator=generator), wanted])


def _refused(folder: Path, reason: Exception) -> CheckpointError:
    """Why a folder can't be opened: the tensor or file at fault if one is found, else what the library said."""
    from ..checking import check_part

    rows = check_part("unclip", folder) if (folder / "model_index.json").is_file() else []
    wrong = next((row.sentence for row in rows if not row.ok), None)
    said = " ".join(str(reason).split())[:200]
    return CheckpointError(wrong or f"{folder} holds no Stable unCLIP pipeline ({said}); fetch it again.")


def _check_fit(folder: Path, pipeline: EmbeddingPipeline) -> None:
    """The libraries fill what a file lacks with random numbers; here that is refused."""
    from ..checking import unclip_row

    for name in ("unet", "vae", "image_normalizer", "text_encoder"):
        state = getattr(pipeline, name).state_dict()
        row = unclip_row(folder, name, {key: tuple(tensor.shape) for key, tensor in state.items()})
        if not row.ok:
            raise CheckpointError(row.sentence)


class ImageSynthesis:
    """Draws pictures from image embeddings."""

    def __init__(self, pipeline: EmbeddingPipeline, options: SynthesisOptions, start: Start | None = None) -> None:
        self.pipeline, self.options, self.start = pipeline, options, start
        # A diffusers scheduler keeps its place between steps: two pictures at once would take each other's.
        self._drawing = threading.Lock()
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def from_folder(
        cls, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> ImageSynthesis:
        """The pipeline in `folder` (diffusers' layout; an image encoder in it is not read)."""
        left_out: dict[str, Any] = {"image_encoder": None, "feature_extractor": None}
        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()  # the door shows what runs; bars of the libraries would write over it
        try:
            pipeline = EmbeddingPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, **left_out
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
            raise _refused(folder, reason) from reason
        _check_fit(folder, pipeline)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        start = Start(load_tensors(folder / START)) if (folder / START).exists() else None
        return cls(pipeline.to(device), SynthesisOptions.from_folder(folder), start)

    @property
    def size(self) -> int:
        """Pixels a side of the pictures."""
        if self.options.size is not None:
            return self.options.size
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    def latents(self, embedding: Tensor, generator: torch.Generator) -> Tensor:
        """What a picture starts from, [1, C, h, w]: noise, or a guess under the schedule's last noise."""
        side = self.size // self.pipeline.vae_scale_factor
        shape = (1, self.pipeline.unet.config.in_channels, side, side)
        noise = torch.randn(shape, generator=generator)
        if self.start is None:
            return noise
        kept = float(self.pipeline.scheduler.alphas_cumprod[-1])
        started: Tensor = kept**0.5 * self.start.guess(embedding, shape) + (1 - kept) ** 0.5 * noise
        return started

    def draw(self, embedding: Tensor, seed: int) -> NDArray[np.uint8]:
        """The picture uint8 [size, size, 3] of one embedding [F]; the same embedding and seed give the same bytes."""
        # Noise is drawn on the CPU, so that every device starts from the same.
        generator = torch.Generator("cpu").manual_seed(seed)
        latents = self.latents(embedding, generator).to(self.pipeline.device, self.pipeline.unet.dtype)
        with self._drawing:
            pixels = self.pipeline(
                prompt="",
                image_embeds=embedding[None],
                latents=latents,
                generator=generator,
                num_inference_steps=self.options.steps,
                guidance_scale=self.options.guidance,
                noise_level=self.options.noise_level,
                height=self.size,
                width=self.size,
                output_type="np",
            ).images[0]
        return (pixels * 255).round().astype(np.uint8)  # type: ignore[no-any-return]
