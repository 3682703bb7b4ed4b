"""The speech codec: both tokenizers behind one protocol, voices, seeds, long sounds and their seams, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyloom.anygpt_model.codecs.frame_codec import FrameCodec, FrameCodecConfig
from anyloom.anygpt_model.codecs.protocol import Codec
from anyloom.anygpt_model.codecs.soundstorm import SoundStorm, SoundStormConfig
from anyloom.anygpt_model.codecs.speech import STORM_WEIGHTS, VOICE, SpeechCodec, in_pieces, save_storm
from anyloom.anygpt_model.codecs.speechtokenizer import SpeechTokenizer, SpeechTokenizerConfig
from anyloom.anygpt_model.errors import CheckpointError, MediaError

SEANET = {"n_filters": 2, "dimension": 8, "semantic_dimension": 6, "codebook_size": 32, "n_q": 4}
STORM = {"codebook_size": 32, "num_quantizers": 3, "num_semantic_token_ids": 32, "dim": 16, "depth": 1, "heads": 2,
         "dim_head": 8, "steps": 2, "prompt": 150, "window": 300}  # fmt: skip


def write_model(folder, kind: str) -> None:
    torch.manual_seed(0)
    tokenizer_folder = folder / "speechtokenizer"
    tokenizer_folder.mkdir()
    if kind == "frame":
        config = FrameCodecConfig(
            n_mels=20, width=16, latent=8, encoder_blocks=1, decoder_blocks=2, upsampled_blocks=1, num_codebooks=4,
            cardinality=32, semantic_width=0,
        )  # fmt: skip
        FrameCodec(config).save_folder(tokenizer_folder, "ckpt.safetensors")
    else:
        tokenizer = SpeechTokenizer(SpeechTokenizerConfig.from_json(SEANET))
        save_file(tokenizer.state_dict(), tokenizer_folder / "ckpt.safetensors")
        (tokenizer_folder / "config.json").write_text(json.dumps(SEANET | {"batch_size": 7}))
    storm = SoundStorm(SoundStormConfig.from_json(STORM))
    save_storm(storm, folder / "soundstorm", STORM, torch.randint(0, 32, (4, 40)))


@pytest.fixture(scope="module", params=["frame", "seanet"])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param)
    write_model(made, request.param)
    return made


@pytest.fixture(scope="module")
def codec(folder):
    return SpeechCodec.from_folder(folder)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    return drawn.astype(np.float32)


def test_it_is_a_codec_of_level_one(codec):
    assert isinstance(codec, Codec)
    assert (codec.num_codebooks, codec.cardinality, codec.frame_rate, codec.sample_rate) == (1, 32, 50.0, 16_000)
    codes = codec.encode(noise(0.5))
    assert codes.shape == (1, 25)
    assert codes.dtype == np.int64
    made = codec.decode(codes)
    assert made.shape == (8000,)
    assert made.dtype == np.float32
    assert np.abs(made).max() <= 1


def test_the_same_seed_and_voice_give_the_same_samples(codec):
    codes = codec.encode(noise(1.0))
    assert np.array_equal(codec.decode(codes, seed=5), codec.decode(codes, seed=5))
    assert not np.array_equal(codec.decode(codes, seed=5), codec.decode(codes, seed=6))
    prompt = noise(2.0, 1)
    assert np.array_equal(codec.decode(codes, voice=prompt), codec.decode(codes, voice=prompt))
    assert not np.array_equal(codec.decode(codes, voice=prompt), codec.decode(codes))


def test_no_more_than_three_seconds_of_a_voice_count(codec):
    codes, prompt = codec.encode(noise(0.5)), noise(5.0, 1)
    longer = np.concatenate([prompt[:48_000], noise(2.0, 2)])
    assert np.array_equal(codec.decode(codes, voice=prompt), codec.decode(codes, voice=longer))


def test_the_folders_own_voice_is_a_voice_like_any_other(codec, folder):
    codes = torch.as_tensor(codec.encode(noise(0.5))[0])
    own = load_file(folder / "soundstorm" / VOICE)["codes"].long()
    by_hand = codec.wave(codec.fill(codes, 3, own)).numpy()
    assert np.array_equal(codec.decode(codes[None].numpy(), seed=3), by_hand)


def test_a_folder_may_leave_the_last_levels_out(folder, codec, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    about = tmp_path / "soundstorm" / "config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"levels": 2}))
    fewer, codes = SpeechCodec.from_folder(tmp_path), codec.encode(noise(0.5))
    by_hand = codec.wave(codec.fill(torch.as_tensor(codes[0]), 0, codec._voice)[:2]).numpy()
    assert np.array_equal(fewer.decode(codes), by_hand)
    assert not np.array_equal(codec.decode(codes), by_hand)


def test_level_one_is_kept_and_other_levels_are_filled_in(codec):
    semantic = torch.randint(0, 32, (1300,))
    filled = codec.fill(semantic, 0, None)
    assert filled.shape == (4, 1300)
    assert torch.equal(filled[0], semantic)
    assert int(filled.max()) < 32


@pytest.mark.slow
def test_seams_of_a_long_sound_are_small(codec, folder, monkeypatch):
    """40 s in pieces against the same at once: the frame codec hears less than a second, so its seams are exact; an
    LSTM remembers, and what is lost at a piece's start stays under a thousandth of the signal."""
    sound = noise(40.0)
    in_parts = codec.all_levels(sound)
    wave = codec.wave(in_parts)
    monkeypatch.setattr("anyloom.anygpt_model.codecs.speech.PIECE_SECONDS", 100.0)
    at_once = codec.all_levels(sound)
    whole = codec.wave(in_parts)
    frame = "frame" in str(folder)
    assert float((in_parts != at_once).float().mean()) <= (0.0 if frame else 0.001)
    error = float((wave - whole).abs().max() / whole.abs().max())
    assert error < (1e-5 if frame else 1e-3)


def test_pieces_cover_every_frame_once():
    made = in_pieces(lambda start, end: torch.arange(start * 2, end * 2)[None], 103, 10, 3, per_frame=2)
    assert torch.equal(made[0], torch.arange(206))


def test_an_empty_sound_is_refused_and_no_codes_are_silence(codec):
    with pytest.raises(MediaError, match="no samples"):
        codec.encode(np.zeros(0, np.float32))
    with pytest.raises(MediaError, match="no samples"):
        codec.decode(np.zeros((1, 3), np.int64), voice=np.zeros(0, np.float32))
    assert codec.decode(np.zeros((1, 0), np.int64)).shape == (0,)


def test_tensors_that_are_missing_or_misshapen_are_named(tmp_path):
    write_model(tmp_path, "seanet")
    file = tmp_path / "soundstorm" / STORM_WEIGHTS
    tensors = load_file(file)
    name = "net.to_logits.2.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=f"no tensor {name}"):
        SpeechCodec.from_folder(tmp_path)
    save_file(tensors | {name: torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"\[2, 2\]"):
        SpeechCodec.from_folder(tmp_path)
    save_file(tensors | {"extra": torch.zeros(1)}, file)
    assert SpeechCodec.from_folder(tmp_path).num_codebooks == 1


def test_levels_of_two_checkpoints_do_not_mix():
    tokenizer = SpeechTokenizer(SpeechTokenizerConfig.from_json(SEANET | {"n_q": 2}))
    with pytest.raises(CheckpointError, match="one checkpoint"):
        SpeechCodec(tokenizer, SoundStorm(SoundStormConfig.from_json(STORM)))
