"""The picture codec over a model folder in the published layout, of random numbers: shapes, seeds, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image
from safetensors.torch import save_file

from anyloom.anygpt_model.codecs.image import ImageCodec
from anyloom.anygpt_model.codecs.protocol import Codec
from anyloom.anygpt_model.codecs.seed import SeedTokenizer
from anyloom.anygpt_model.codecs.seed_config import SeedConfig
from anyloom.anygpt_model.codecs.unclip import EmbeddingPipeline
from anyloom.anygpt_model.errors import CheckpointError, InputError
from anyloom.anygpt_model.training.seed_trainer import export
from anyloom.anygpt_model.training.unclip_trainer import noising, schedule, text_parts

TINY = SeedConfig(
    img_size=16,
    patch_size=8,
    vit_embed_dim=16,
    vit_depth=1,
    vit_heads=2,
    hidden_size=24,
    qformer_layers=2,
    qformer_heads=3,
    qformer_intermediate=32,
    codebook_size=64,
    codebook_dim=4,
    decode_depth=1,
    decode_heads=3,
    image_down=(16, 8, 4),
    image_features_dim=10,
)


def write_unclip(folder: Path) -> None:
    tokenizer, text_encoder = text_parts(folder / "tokenizer")
    EmbeddingPipeline(
        feature_extractor=None,
        image_encoder=None,
        image_normalizer=StableUnCLIPImageNormalizer(10),
        image_noising_scheduler=noising(),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            down_block_types=("DownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=32,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=20,
        ),
        scheduler=schedule(50),
        vae=AutoencoderKL(block_out_channels=[8], norm_num_groups=4, mid_block_add_attention=False, scaling_factor=1.0),
    ).save_pretrained(folder)
    (folder / "synthesis.json").write_text(json.dumps({"steps": 2, "guidance": 1.5}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    model = SeedTokenizer(TINY)
    torch.nn.init.normal_(model.query_tokens)
    torch.nn.init.normal_(model.quantize.embedding.weight, std=0.05)
    export(model, path / "seed")
    write_unclip(path / "unclip")
    return path


@pytest.fixture(scope="module")
def codec(folder: Path) -> ImageCodec:
    return ImageCodec.from_folder(folder)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_it_keeps_the_contract_of_codecs(codec: ImageCodec, picture: np.ndarray) -> None:
    assert isinstance(codec, Codec)
    codes = codec.encode(picture)
    assert (codes.dtype, codes.shape) == (np.int64, (1, 32))
    assert 0 <= codes.min() <= codes.max() < codec.cardinality == 64
    made = codec.decode(codes, seed=3)
    assert (made.dtype, made.shape) == (np.uint8, (8, 8, 3))


def test_the_same_codes_and_seed_give_the_same_bytes(codec: ImageCodec, picture: np.ndarray) -> None:
    codes = codec.encode(picture)
    assert np.array_equal(codec.decode(codes, seed=5), codec.decode(codes, seed=5))
    assert not np.array_equal(codec.decode(codes, seed=5), codec.decode(codes, seed=6))


def test_pictures_are_resized_as_the_original_does(codec: ImageCodec, picture: np.ndarray) -> None:
    resized = np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(codec.encode(resized), codec.encode(picture))
    pixels = codec.pixels(np.full((5, 9, 3), 255, np.uint8))
    red = (1 - 0.48145466) / 0.26862954
    assert pixels[0, 0].unique().tolist() == pytest.approx([red])


def test_a_linear_start_moves_the_picture(folder: Path, codec: ImageCodec, picture: np.ndarray) -> None:
    codes = codec.encode(picture)
    before = codec.decode(codes, seed=1)
    start = folder / "unclip" / "start.safetensors"
    save_file({"weight": torch.zeros(256, 10), "bias": torch.full((256,), 5.0)}, start)
    try:
        assert not np.array_equal(ImageCodec.from_folder(folder).decode(codes, seed=1), before)
    finally:
        start.unlink()


def test_what_is_no_picture_and_no_code_is_refused(codec: ImageCodec) -> None:
    with pytest.raises(InputError, match=r"float64 \[4, 4\] came"):
        codec.encode(np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Code 64 came"):
        codec.decode(np.full((1, 32), 64))
    with pytest.raises(InputError, match="Code -1 came"):
        codec.decode(np.full((1, 32), -1))
    with pytest.raises(InputError, match="exactly 32"):
        codec.decode(np.zeros((1, 31), np.int64))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        ImageCodec.from_folder(tmp_path)
