"""The codec is trained on the trained tunes only, and every clip gets the codes that a user's encoding would give."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.codecs.frame_codec import FrameCodec
from anyloom.anygpt_model.codecs.music import MusicCodec
from anyloom.anygpt_model.training import music_data, music_decoder_trainer, music_trainer


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Four clips of noise; the held-out ones are loud and positive, so that a crop of them would show."""
    home = tmp_path / "music"
    home.mkdir()
    rng = np.random.default_rng(0)
    sounds = rng.integers(-3000, 3000, (4, 120_000)).astype(np.int16)
    sounds[2:] = np.abs(sounds[2:]) + 20_000
    np.save(home / "audio.npy", sounds)
    rows = [{"split": split} for split in ("train", "train", "test", "test")]
    (home / "clips.json").write_text(json.dumps(rows))
    return tmp_path


def test_held_out_clips_are_never_heard(work: Path) -> None:
    batches = music_trainer.MusicBatches(work, 0)
    for _ in range(4):
        wave, features = batches()
        assert features is None
        assert wave.shape == (music_trainer.BATCH, music_trainer.CROP_FRAMES * music_trainer.CODEC.frame_size)
        assert wave.abs().max() < 0.3


def test_batches_repeat_with_their_seed(work: Path) -> None:
    first, again, other = (music_trainer.MusicBatches(work, seed)()[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tokens_are_what_the_product_would_encode(work: Path) -> None:
    torch.manual_seed(0)
    FrameCodec(music_trainer.CODEC).save_folder(work / "music" / "codec")
    music_trainer.write_tokens(work)
    codes = music_trainer.tokens(work)
    assert codes.shape == (4, 4, 60)
    codec = MusicCodec.from_folder(work / "music" / "codec")
    clip = music_data.audio(work)[1].astype(np.float32) / 32768
    assert np.mean(codec.encode(clip) == codes[1]) > 0.99


def test_levels_that_are_not_trained_say_nothing() -> None:
    torch.manual_seed(0)
    small = replace(music_trainer.CODEC, width=16, latent=8, encoder_blocks=1, decoder_blocks=1, upsampled_blocks=1)
    trained = FrameCodec(replace(small, num_codebooks=music_trainer.LEVELS)).eval()
    whole = music_trainer.widened(trained)
    wave = torch.rand(2, 5 * small.frame_size) - 0.5
    codes, spoken = whole.encode(wave), trained.encode(wave)
    assert codes.shape == (2, 4, 5)
    assert torch.equal(codes[:, : music_trainer.LEVELS], spoken)
    assert not codes[:, music_trainer.LEVELS :].any()
    assert torch.equal(whole.decode(codes), trained.decode(spoken))


@pytest.mark.slow
def test_refining_the_decoder_keeps_every_code(work: Path) -> None:
    torch.manual_seed(0)
    small = replace(music_trainer.CODEC, width=16, latent=8, encoder_blocks=1, decoder_blocks=1, upsampled_blocks=1)
    codec = FrameCodec(small)
    codes = music_trainer.encode_clips(codec, work)
    np.savez(work / "music" / "tokens.npz", codes=codes)
    decoder = {name: tensor.clone() for name, tensor in codec.decoder.state_dict().items()}
    music_decoder_trainer.refine(codec, music_decoder_trainer.Clips(work, "train"), 0.02, 0)
    assert np.array_equal(music_trainer.encode_clips(codec, work), codes)
    assert not torch.equal(codec.decoder.state_dict()["inward.weight"], decoder["inward.weight"])
