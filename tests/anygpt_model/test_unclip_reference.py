"""The unCLIP wrapper beside the unchanged pipeline of diffusers and its loop by hand: steps, sizes, noise, guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from torch import Tensor

from anyloom.anygpt_model.codecs.unclip import EmbeddingPipeline, ImageSynthesis, SynthesisOptions


class NoTower(torch.nn.Module):
    """Stands where diffusers' pipeline keeps CLIP's vision tower; of that it reads only the dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))
        self.device, self.dtype = self.one.device, self.one.dtype


class NoExtractor:
    """Stands where it keeps what prepares pictures for that tower."""


@pytest.fixture(scope="module")
def ours(tiny_folder: Path) -> ImageSynthesis:
    return ImageSynthesis.from_folder(tiny_folder / "unclip")


@pytest.fixture(scope="module")
def theirs(ours: ImageSynthesis) -> StableUnCLIPImg2ImgPipeline:
    parts = {**ours.pipeline.components, "image_encoder": NoTower(), "feature_extractor": NoExtractor()}
    made = StableUnCLIPImg2ImgPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def width(pipeline: EmbeddingPipeline) -> int:
    return int(pipeline.image_normalizer.mean.shape[1])


CASES = [
    {"num_inference_steps": 1, "guidance_scale": 10.0, "noise_level": 0, "side": 16},
    {"num_inference_steps": 3, "guidance_scale": 1.0, "noise_level": 0, "side": 16},
    {"num_inference_steps": 7, "guidance_scale": 4.5, "noise_level": 250, "side": 32},
    {"num_inference_steps": 13, "guidance_scale": 10.0, "noise_level": 999, "side": 48},
    {"num_inference_steps": 21, "guidance_scale": 2.0, "noise_level": 17, "side": 16},
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [123])
def test_without_a_negative_it_is_the_librarys_pipeline(
    ours: ImageSynthesis, theirs: StableUnCLIPImg2ImgPipeline, case: dict[str, Any], seed: int
) -> None:
    case = dict(case)
    side = case.pop("side")
    torch.manual_seed(seed)
    scale = ours.pipeline.vae_scale_factor
    channels = ours.pipeline.unet.config.in_channels
    given = {"image_embeds": torch.randn(1, width(ours.pipeline)),
             "latents": torch.randn(1, channels, side // scale, side // scale)}  # fmt: skip
    made = [
        pipeline(prompt="", generator=torch.Generator().manual_seed(seed), height=side, width=side, output_type="pt",
                 **given, **case).images
        for pipeline in (ours.pipeline, theirs)
    ]  # fmt: skip
    assert made[0].shape[-2:] == (side, side)
    assert torch.equal(made[0], made[1])


def by_hand(pipeline: EmbeddingPipeline, start: Tensor, wanted: Tensor, unwanted: Tensor, steps: int, scale: float,
            level: int, seed: int) -> Tensor:  # fmt: skip
    """Latents after the loop: the unwanted embedding noised at level 0 is the unconditional half, drawn second."""
    draw = torch.Generator().manual_seed(seed)
    ids = pipeline.tokenizer("", padding="max_length", max_length=8, return_tensors="pt").input_ids
    words = pipeline.text_encoder(ids)[0]
    noised = [
        pipeline.noise_image_embeddings(embedding, at, noise=torch.randn(embedding.shape, generator=draw))
        for embedding, at in ((wanted, level), (unwanted, 0))
    ]
    pipeline.scheduler.set_timesteps(steps)
    latents = start * pipeline.scheduler.init_noise_sigma
    for time in pipeline.scheduler.timesteps:
        seen = pipeline.scheduler.scale_model_input(latents, time)
        with_it, without = (pipeline.unet(seen, time, words, class_labels=label).sample for label in noised)
        latents = pipeline.scheduler.step(without + scale * (with_it - without), time, latents).prev_sample
    return latents


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "scale", "level", "seed"), [(2, 3.0, 0, 1), (5, 10.0, 40, 2), (11, 1.5, 700, 3)])
@torch.inference_mode()
def test_with_a_negative_it_is_the_loop_by_hand(
    ours: ImageSynthesis, steps: int, scale: float, level: int, seed: int
) -> None:
    torch.manual_seed(seed)
    pipeline = ours.pipeline
    side = pipeline.unet.config.sample_size
    start = torch.randn(1, pipeline.unet.config.in_channels, side, side)
    wanted, unwanted = torch.randn(2, 1, width(pipeline)).unbind()
    pipeline.negative = unwanted
    try:
        made = pipeline(
            prompt="", image_embeds=wanted, latents=start, generator=torch.Generator().manual_seed(seed),
            num_inference_steps=steps, guidance_scale=scale, noise_level=level, output_type="latent",
            height=side * pipeline.vae_scale_factor, width=side * pipeline.vae_scale_factor,
        ).images  # fmt: skip
    finally:
        pipeline.negative = None
    expected = by_hand(pipeline, start, wanted, unwanted, steps, scale, level, seed)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "level"), [(None, 300), (32, 0), (64, 0)])
def test_a_seed_draws_one_picture_whatever_was_drawn_before(
    ours: ImageSynthesis, theirs: StableUnCLIPImg2ImgPipeline, size: int | None, level: int
) -> None:
    """`draw` is the library's pipeline on a start drawn first from the picture's own seed."""
    drawing = ImageSynthesis(ours.pipeline, SynthesisOptions(steps=4, guidance=3.0, noise_level=level, size=size))
    embedding = torch.randn(width(ours.pipeline), generator=torch.Generator().manual_seed(9))
    first = drawing.draw(embedding, 5)
    drawing.draw(embedding, 6)
    assert np.array_equal(drawing.draw(embedding, 5), first)
    draw = torch.Generator().manual_seed(5)
    side = drawing.size // ours.pipeline.vae_scale_factor
    start = torch.randn(1, ours.pipeline.unet.config.in_channels, side, side, generator=draw)
    expected = theirs(
        prompt="", image_embeds=embedding[None], latents=start, generator=draw, num_inference_steps=4,
        guidance_scale=3.0, noise_level=level, height=drawing.size, width=drawing.size, output_type="np",
    ).images[0]  # fmt: skip
    assert np.array_equal(first, (expected * 255).round().astype(np.uint8))
