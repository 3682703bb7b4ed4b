"""EnCodec equals the original's numbers; both music codecs keep the protocol."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model.codecs.encodec import Encodec, EncodecConfig, config_from_json, published_name
from anyloom.anygpt_model.codecs.frame_codec import FrameCodec, FrameCodecConfig
from anyloom.anygpt_model.codecs.music import MusicCodec
from anyloom.anygpt_model.codecs.protocol import Codec
from anyloom.anygpt_model.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "goldens" / "encodec32_tiny"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(load_file(GOLDEN.with_suffix(".safetensors")))


@pytest.fixture(scope="module")
def folder(golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny EnCodec as a folder in the published layout."""
    made = tmp_path_factory.mktemp("encodec")
    config = json.loads(GOLDEN.with_suffix(".json").read_text("utf-8"))["config"]
    (made / "config.json").write_text(json.dumps(config))
    weights = {name[3:]: tensor for name, tensor in golden.items() if name.startswith("sd/")}
    save_file(weights, made / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def encodec(folder: Path) -> MusicCodec:
    return MusicCodec.from_folder(folder)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> MusicCodec:
    made = tmp_path_factory.mktemp("frames")
    torch.manual_seed(1)
    config = FrameCodecConfig(
        sample_rate=24_000, hop=240, stack=4, window=960, n_mels=40, width=16, latent=8, encoder_blocks=1,
        decoder_blocks=1, upsampled_blocks=1, num_codebooks=4, cardinality=32, semantic_width=0,
    )  # fmt: skip
    FrameCodec(config).save_folder(made)
    return MusicCodec.from_folder(made)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, samples).astype(np.float32)


def test_codes_equal_the_original(encodec: MusicCodec, golden: dict[str, Any]) -> None:
    codes = encodec.encode(golden["in/wav"][0, 0].numpy())
    assert codes.dtype == np.int64
    assert np.array_equal(codes, golden["out/codes"][0, 0].numpy())


def test_samples_equal_the_original(encodec: MusicCodec, golden: dict[str, Any]) -> None:
    samples = encodec.decode(golden["out/codes"][0, 0].numpy())
    assert np.abs(samples - golden["out/wav"][0, 0].numpy()).max() < 1e-6


def test_newer_names_of_the_weight_norm_are_taken(folder: Path, tmp_path: Path, encodec: MusicCodec) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    sound = noise(3200)
    assert np.array_equal(MusicCodec.from_folder(tmp_path).encode(sound), encodec.encode(sound))


def test_full_size_has_the_published_tensors(published: Any, table_of: Any) -> None:
    with torch.device("meta"):
        network = Encodec(EncodecConfig())
    ours = {published_name(name): held for name, held in table_of(network).items()}
    assert ours == published("encodec_32khz")
    assert (network.config.num_codebooks, network.config.frame_rate, network.config.frame_size) == (4, 50, 640)


@pytest.mark.parametrize("which", ["encodec", "frames"])
@pytest.mark.parametrize("seconds", [0.001, 0.1, 1.0, 5.0, 5.3, 12.0])
def test_protocol(which: str, seconds: float, request: pytest.FixtureRequest) -> None:
    codec: MusicCodec = request.getfixturevalue(which)
    sound = noise(max(1, round(seconds * codec.sample_rate)))
    codes = codec.encode(sound)
    assert isinstance(codec, Codec)
    assert codes.shape == (codec.num_codebooks, int(np.ceil(len(sound) / codec.sample_rate * codec.frame_rate)))
    assert codes.min() >= 0
    assert codes.max() < codec.cardinality
    made = codec.decode(codes)
    assert (made.dtype, made.ndim) == (np.float32, 1)
    assert len(made) == codes.shape[1] * codec.sample_rate // codec.frame_rate
    assert np.abs(made).max() <= 1
    assert np.array_equal(made, codec.decode(codes, seed=7))


@pytest.mark.parametrize("which", ["encodec", "frames"])
def test_a_long_sound_is_coded_in_pieces_of_five_seconds(which: str, request: pytest.FixtureRequest) -> None:
    codec: MusicCodec = request.getfixturevalue(which)
    sound = noise(11 * codec.sample_rate)
    five = 5 * codec.sample_rate
    pieces = [codec.encode(sound[start : start + five]) for start in (0, five, 2 * five)]
    assert [len(piece) for piece in codec.pieces(sound)] == [five, five, codec.sample_rate]
    assert np.array_equal(codec.encode(sound), np.concatenate(pieces, axis=1))


def test_sizes_come_from_the_configuration(encodec: MusicCodec, frames: MusicCodec) -> None:
    assert (encodec.cardinality, encodec.num_codebooks, encodec.frame_rate, encodec.sample_rate) == (2048, 4, 50, 32000)
    assert (frames.cardinality, frames.num_codebooks, frames.frame_rate, frames.sample_rate) == (32, 4, 25, 24000)


def changed(folder: Path, target: Path, **tensors: Any) -> Path:
    """A copy of `folder` in which tensors are replaced, or left out where None is given."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, target / "model.safetensors")
    return target


def test_misfitting_weights_are_named(folder: Path, tmp_path: Path) -> None:
    name = "decoder.layers.15.conv.bias"
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        MusicCodec.from_folder(changed(folder, tmp_path / "a", **{name: None}))
    with pytest.raises(CheckpointError, match=rf"{name} of shape \(3,\)"):
        MusicCodec.from_folder(changed(folder, tmp_path / "b", **{name: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="foreign tensor spare"):
        MusicCodec.from_folder(changed(folder, tmp_path / "c", spare=torch.zeros(3)))


def test_other_kinds_of_encodec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="audio_channels 2"):
        config_from_json({"audio_channels": 2})
    with pytest.raises(CheckpointError, match=r"no readable config\.json"):
        MusicCodec.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        MusicCodec.from_folder(tmp_path)
