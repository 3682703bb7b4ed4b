"""SpeechTokenizer against the original's numbers, its published tensor names, and other shapes than the goldens'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anyloom.anygpt_model.codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig, reflected
from anyloom.anygpt_model.errors import CheckpointError

GOLDENS = Path(__file__).parents[1] / "goldens"
LENGTHS = (3200, 5000, 4801, 8000)


@pytest.fixture(scope="module", params=["snake", "elu"])
def golden(request: pytest.FixtureRequest) -> tuple[SpeechTokenizer, dict[str, Tensor], str]:
    name = GOLDENS / f"speechtokenizer_tiny_{request.param}"
    tensors = load_file(name.with_suffix(".safetensors"))
    config = SpeechTokenizerConfig.from_json(json.loads(name.with_suffix(".json").read_text())["config"])
    tokenizer = SpeechTokenizer(config).eval()
    tokenizer.load_state_dict({key[3:]: value for key, value in tensors.items() if key.startswith("sd/")})
    return tokenizer, tensors, request.param


@pytest.mark.parametrize("length", LENGTHS)
def test_latents_codes_and_waves_are_the_originals(golden, length):
    tokenizer, tensors, kind = golden
    wave = tensors[f"in/wav_{length}"][:, 0]
    torch.testing.assert_close(tokenizer.latents(wave), tensors[f"out/latent_{length}"], rtol=0, atol=1e-5)
    codes, wanted = tokenizer.encode(wave), tensors[f"out/codes_{length}"].transpose(0, 1)
    if kind == "snake":
        assert torch.equal(codes, wanted)
    else:  # two vectors of this variant's last level lie within float noise of each other
        assert (codes != wanted).float().mean() < 0.01
    made = tokenizer.decode(wanted)
    torch.testing.assert_close(made, tensors[f"out/wav_{length}"][:, 0], rtol=0, atol=1e-5)


def test_some_levels_alone_decode_as_the_originals(golden):
    tokenizer, tensors, _ = golden
    codes = tensors["out/codes_8000"].transpose(0, 1)
    first = tokenizer.decode(codes[:, :1])
    rest = tokenizer.decode(codes[:, 1:], first_level=1)
    torch.testing.assert_close(first, tensors["out/wav_8000_q1"][:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(rest, tensors["out/wav_8000_q2to8"][:, 0], rtol=0, atol=1e-5)


def test_the_semantic_feature_is_the_originals(golden):
    tokenizer, tensors, _ = golden
    told = tokenizer.semantic(tensors["in/wav_8000"][:, 0])
    torch.testing.assert_close(told, tensors["out/feature_8000"], rtol=0, atol=1e-5)


def test_a_batch_gives_what_each_sound_gives(golden):
    tokenizer, tensors, kind = golden
    waves = torch.stack([tensors["in/wav_8000"][0, 0], tensors["in/wav_8000"][0, 0].flip(0)])
    together = tokenizer.encode(waves)
    assert torch.equal(together[1:], tokenizer.encode(waves[1:]))
    if kind == "snake":
        assert torch.equal(together, tensors["out/codes_batch"].transpose(0, 1))


@pytest.mark.parametrize("kind", ["snake", "elu"])
def test_at_full_size_tensors_are_the_published_ones(kind, published, table_of):
    with torch.device("meta"):
        tokenizer = SpeechTokenizer(SpeechTokenizerConfig(activation=kind))
    assert table_of(tokenizer) == published(f"speechtokenizer_{kind}")


@pytest.mark.parametrize(
    "sizes",
    [
        {"strides": [4, 2], "bidirectional": False, "n_residual_layers": 2, "activation": "ELU"},
        {"strides": [5, 4, 2], "lstm_layers": 1, "dimension": 16, "semantic_dimension": 16, "n_q": 3},
        {"strides": [3, 2], "lstm_layers": 0, "residual_kernel_size": 5, "dilation_base": 3, "n_residual_layers": 3},
    ],
)
def test_other_shapes_keep_whole_frames(sizes):
    base = {"n_filters": 4, "dimension": 8, "semantic_dimension": 12, "codebook_size": 16, "n_q": 2, "epochs": 3}
    config = SpeechTokenizerConfig.from_json(base | sizes)
    tokenizer = SpeechTokenizer(config).eval()
    for length in (config.frame_size * 40, config.frame_size * 40 + 1, 7):
        codes = tokenizer.encode(torch.randn(2, length))
        frames = -(-length // config.frame_size)
        assert codes.shape == (2, config.n_q, frames)
        assert tokenizer.decode(codes).shape == (2, frames * config.frame_size)


def test_too_short_a_sound_is_lengthened_before_it_is_mirrored():
    assert reflected(torch.tensor([[[1.0, 2.0]]]), 3, 2).shape[-1] == 7
    assert reflected(torch.tensor([[[1.0, 2.0, 3.0]]]), 2, 1)[0, 0].tolist() == [3, 2, 1, 2, 3, 2]


def test_an_unknown_activation_is_refused():
    with pytest.raises(CheckpointError, match="'Snake' or 'ELU'"):
        SpeechTokenizer(SpeechTokenizerConfig(n_filters=2, activation="gelu"))
