"""The unCLIP wrapper against latents and pictures of the original pipeline, and what a seed means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from anyloom.anygpt_model.codecs.unclip import EmbeddingPipeline, ImageSynthesis, SynthesisOptions
from anyloom.anygpt_model.errors import CheckpointError

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / "unclip_tiny.safetensors")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / "unclip_tiny.json").read_text())
    return found


class OnlyEmpty:
    """A tokenizer that knows one prompt: none."""

    model_max_length = 8

    def __init__(self, ids: list[int]) -> None:
        self.input_ids = torch.tensor([ids])

    def __call__(self, text: str | list[str], **_: object) -> "OnlyEmpty":
        assert text in ("", [""])
        return self


@pytest.fixture(scope="module")
def pipeline(golden: dict[str, torch.Tensor], facts: dict[str, Any]) -> EmbeddingPipeline:
    def filled(part: Any, name: str) -> Any:
        head = f"sd/{name}."
        state = {key.removeprefix(head): value for key, value in golden.items() if key.startswith(head)}
        position_ids = {key for key in state if key.endswith("position_ids")}
        wanted = set(part.state_dict())
        if not wanted <= set(state):
            state = {key.removeprefix("text_model."): value for key, value in state.items()}
        part.load_state_dict({key: value for key, value in state.items() if key not in position_ids})
        return part.eval()

    configs = {
        name: {key: value for key, value in config.items() if not key.startswith("_")}
        for name, config in facts["configs"].items()
        if isinstance(config, dict)
    }
    names = CLIPTextConfig().to_dict()
    text = {key: value for key, value in configs["text_encoder"].items() if key in names}
    made = EmbeddingPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=filled(StableUnCLIPImageNormalizer(facts["configs"]["normalizer_dim"]), "image_normalizer"),
        image_noising_scheduler=DDPMScheduler(**configs["image_noising_scheduler"]),
        tokenizer=None,
        text_encoder=filled(CLIPTextModel(CLIPTextConfig(**text)), "text_encoder"),
        unet=filled(UNet2DConditionModel(**configs["unet"]), "unet"),
        scheduler=PNDMScheduler(**configs["scheduler"]),
        vae=filled(AutoencoderKL(**configs["vae"]), "vae"),
    )
    made.tokenizer = OnlyEmpty(facts["empty_prompt_ids"])
    made.maybe_convert_prompt = lambda prompt, _: prompt
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipeline: EmbeddingPipeline, golden: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    made = pipeline(
        prompt="",
        image_embeds=golden["in/image_embeds"],
        latents=golden["in/latents"],
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=20,
        guidance_scale=10,
        noise_level=0,
        height=16,
        width=16,
        output_type=kind,
    )
    images: torch.Tensor = made.images
    return images


@pytest.mark.parametrize("negative", [False, True])
def test_latents_and_pictures_are_the_originals(
    pipeline: EmbeddingPipeline, golden: dict[str, torch.Tensor], negative: bool
) -> None:
    pipeline.negative = golden["in/negative_image_embeds"] if negative else None
    name = "neg" if negative else "pos"
    torch.testing.assert_close(drawn(pipeline, golden, "latent"), golden[f"out/latent_{name}"], atol=1e-4, rtol=1e-4)
    expected = golden[f"out/image_{name}"]
    expected = expected if expected.min() >= 0 else expected / 2 + 0.5
    torch.testing.assert_close(drawn(pipeline, golden, "pt"), expected.clamp(0, 1), atol=1e-4, rtol=1e-4)
    pipeline.negative = None


def test_the_empty_prompt_reads_as_the_original_reads_it(
    pipeline: EmbeddingPipeline, golden: dict[str, torch.Tensor], facts: dict[str, Any]
) -> None:
    states = pipeline.text_encoder(torch.tensor([facts["empty_prompt_ids"]]))[0]
    torch.testing.assert_close(states, golden["out/text_empty"], atol=1e-5, rtol=1e-5)


def test_level_zero_still_adds_the_first_noise(pipeline: EmbeddingPipeline, golden: dict[str, torch.Tensor]) -> None:
    noised = pipeline.noise_image_embeddings(golden["in/image_embeds"], 0, noise=golden["in/noise"])
    torch.testing.assert_close(noised, golden["out/noised_embeds_level0"], atol=1e-5, rtol=1e-5)


def test_a_seed_is_a_picture(pipeline: EmbeddingPipeline, golden: dict[str, torch.Tensor]) -> None:
    synthesis = ImageSynthesis(pipeline, SynthesisOptions(steps=3, guidance=2.0))
    embedding = golden["in/image_embeds"][0]
    first, again, other = (synthesis.draw(embedding, seed) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.shape == (16, 16, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert ImageSynthesis(pipeline, SynthesisOptions(steps=1, size=32)).draw(embedding, 0).shape == (32, 32, 3)


def test_options_come_from_the_folder_and_default_to_the_published_ones(tmp_path: Path) -> None:
    assert SynthesisOptions.from_folder(tmp_path) == SynthesisOptions(20, 10.0, 0, None)
    (tmp_path / "synthesis.json").write_text('{"steps": 8, "guidance": 1.5, "note": "unknown names are left out"}')
    assert SynthesisOptions.from_folder(tmp_path) == SynthesisOptions(8, 1.5, 0, None)


def test_a_folder_without_a_pipeline_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no Stable unCLIP pipeline"):
        ImageSynthesis.from_folder(tmp_path)
