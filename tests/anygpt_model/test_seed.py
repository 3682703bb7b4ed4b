"""The SEED nets against numbers of the original implementation, and their names and shapes at full size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model.codecs.seed import SeedTokenizer, load_seed
from anyloom.anygpt_model.codecs.seed_config import SeedConfig
from anyloom.anygpt_model.errors import CheckpointError, InputError

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / "seed_tiny.safetensors")


@pytest.fixture(scope="module")
def tiny(golden: dict[str, torch.Tensor]) -> SeedTokenizer:
    config = json.loads((GOLDENS / "seed_tiny.json").read_text())["config"]
    model = SeedTokenizer(SeedConfig(**config, max_positions=16, training_parts=True)).eval()
    model.load_state_dict({name[3:]: tensor for name, tensor in golden.items() if name.startswith("sd/")})
    return model.requires_grad_(False)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_each_stage_gives_the_original_numbers(tiny: SeedTokenizer, golden: dict[str, torch.Tensor]) -> None:
    pixels = golden["in/pixel_values"]
    assert_close(tiny.visual_encoder(pixels), golden["out/vit"])
    assert_close(tiny.ln_vision(tiny.visual_encoder(pixels)), golden["out/ln_vision"])
    assert_close(tiny.query(pixels), golden["out/qformer_last_hidden"])
    assert_close(tiny.project(pixels), golden["out/z"])
    assert_close(tiny.decode_task_layer(tiny.quantize.embedding(golden["out/ids"])), golden["out/query_output_up"])


def test_codes_are_the_original_codes(tiny: SeedTokenizer, golden: dict[str, torch.Tensor]) -> None:
    assert torch.equal(tiny.encode(golden["in/pixel_values"]), golden["out/ids"])


def test_embeddings_are_the_original_embeddings(tiny: SeedTokenizer, golden: dict[str, torch.Tensor]) -> None:
    assert_close(tiny.decode(golden["out/ids"]), golden["out/embeds_of_ids"])
    assert_close(tiny.decode(golden["in/random_ids"]), golden["out/embeds_of_random_ids"])


def test_codes_are_causal(tiny: SeedTokenizer, golden: dict[str, torch.Tensor]) -> None:
    changed = SeedTokenizer(tiny.config).eval()
    changed.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        changed.query_tokens[:, 20:] += 1.0
        moved = (changed.query(golden["in/pixel_values"]) - tiny.query(golden["in/pixel_values"])).abs().amax((0, 2))
    assert moved[:20].max() == 0
    assert moved[20:].min() > 0


def test_full_size_has_the_published_tensors(published: Any, table_of: Any) -> None:
    with torch.device("meta"):
        assert table_of(SeedTokenizer(SeedConfig(training_parts=True))) == published("seed_quantizer")


@pytest.mark.parametrize("queries", [4, 32])
def test_other_configurations_encode_and_decode(queries: int) -> None:
    config = SeedConfig(
        img_size=16,
        patch_size=8,
        vit_embed_dim=16,
        vit_depth=1,
        vit_heads=2,
        hidden_size=24,
        qformer_layers=3,
        qformer_heads=3,
        qformer_intermediate=32,
        cross_attention_freq=1,
        num_query_token=queries,
        codebook_size=8,
        codebook_dim=4,
        decode_depth=1,
        decode_heads=3,
        image_down=(16, 8, 4),
        image_features_dim=10,
    )
    model = SeedTokenizer(config).eval()
    codes = model.encode(torch.randn(2, 3, 16, 16))
    assert codes.shape == (2, queries)
    assert model.decode(codes).shape == (2, 10)
    with pytest.raises(InputError, match=f"exactly {queries}"):
        model.decode(codes[:, :-1])


def save(model: SeedTokenizer, folder: Path, drop: str = "") -> None:
    model.config.to_file(folder / "config.json")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != drop}
    vit = {name.removeprefix("visual_encoder."): x for name, x in state.items() if name.startswith("visual_encoder.")}
    vit["blocks.39.norm1.weight"] = torch.zeros(3)
    save_file(vit, folder / "eva_vit_g.safetensors")
    rest = {name: x for name, x in state.items() if not name.startswith("visual_encoder.")}
    save_file(rest, folder / "seed_quantizer.safetensors")


def test_a_folder_loads_without_the_training_parts(
    tiny: SeedTokenizer, golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save(tiny, tmp_path)
    dataclasses.replace(tiny.config, training_parts=False).to_file(tmp_path / "config.json")
    loaded = load_seed(tmp_path)
    assert not any(name.startswith("blocks.") for name, _ in loaded.named_parameters())
    assert torch.equal(loaded.encode(golden["in/pixel_values"]), golden["out/ids"])


def test_missing_and_misshapen_tensors_are_named(tiny: SeedTokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"seed_quantizer\.safetensors is missing"):
        load_seed(tmp_path)
    save(tiny, tmp_path, drop="query_tokens")
    with pytest.raises(CheckpointError, match="query_tokens"):
        load_seed(tmp_path)
    save(tiny, tmp_path)
    dataclasses.replace(tiny.config, codebook_size=64).to_file(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"quantize\.embedding\.weight .* \[128, 8\], \[64, 8\]"):
        load_seed(tmp_path)
