"""The frame codec: shapes in and out, exact folders, causes of refusal, and that its training really learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anyloom.anygpt_model.codecs.frame_codec import FrameCodec, FrameCodecConfig, LogMel
from anyloom.anygpt_model.errors import CheckpointError
from anyloom.anygpt_model.training.frame_codec_trainer import CodebookTrainer, CodecTrainer, CodecTraining, MelLoss

SMALL = FrameCodecConfig(
    n_mels=20, width=16, latent=8, encoder_blocks=1, decoder_blocks=1, upsampled_blocks=1, num_codebooks=3,
    cardinality=16, semantic_width=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        (SMALL, 50.0),
        (FrameCodecConfig(24_000, 240, 4, 960, 20, 16, 8, 1, 1, 1, 4, 32, 0), 25.0),
        (FrameCodecConfig(16_000, 320, 1, 1024, 20, 16, 8, 1, 1, 0, 2, 32, 0), 50.0),
    ],
)
def test_every_shape_codes_whole_frames(config, rate):
    codec = FrameCodec(config).eval()
    assert codec.frame_rate == rate
    for length in (1, config.frame_size * 7, config.frame_size * 7 + 5):
        codes = codec.encode(torch.randn(2, length) * 0.1)
        frames = -(-length // config.frame_size)
        assert codes.shape == (2, config.num_codebooks, frames)
        assert 0 <= int(codes.min()) <= int(codes.max()) < config.cardinality
        assert codec.decode(codes).shape == (2, frames * config.frame_size)
        assert codec.decode(codes[:, :1]).shape == (2, frames * config.frame_size)


def test_a_folder_gives_the_same_codec_again(tmp_path):
    FrameCodec(SMALL).save_folder(tmp_path)
    once, again = FrameCodec.from_folder(tmp_path), FrameCodec.from_folder(tmp_path)
    wave = torch.randn(1, 3200) * 0.1
    codes = once.encode(wave)
    assert torch.equal(codes, again.encode(wave))
    assert torch.equal(once.decode(codes), again.decode(codes))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "frame_codec"


def test_the_weights_may_have_the_name_of_the_layout_they_lie_in(tmp_path):
    FrameCodec(SMALL).save_folder(tmp_path, "ckpt.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
    assert FrameCodec.from_folder(tmp_path).config == SMALL


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "encodec"}, "model_type 'encodec'"),
        ({"widht": 3}, "unknown fields"),
        ({"width": 32}, "doesn't fit its config.json"),
        ({"window": 641}, "window 641"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_sentence(tmp_path, change, told):
    FrameCodec(SMALL).save_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=told) as refusal:
        FrameCodec.from_folder(tmp_path)
    assert "\n" not in str(refusal.value)


def test_missing_weights_are_named(tmp_path):
    FrameCodec(SMALL).save_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        FrameCodec.from_folder(tmp_path)


def test_log_mel_hears_a_tone_where_it_is():
    mel = LogMel(16_000, 640, 160, 80)
    tone = torch.sin(torch.arange(16_000) * 2 * torch.pi * 1000 / 16_000)[None]
    heard = mel(tone)[0, 50]
    low = mel(torch.sin(torch.arange(16_000) * 2 * torch.pi * 250 / 16_000)[None])[0, 50]
    assert int(low.argmax()) < int(heard.argmax()) < 40
    assert mel(tone).shape == (1, 100, 80)


def test_each_level_leaves_less():
    torch.manual_seed(0)
    latents = torch.randn(1, 400, 4)
    books = CodebookTrainer(torch.zeros(3, 32, 4))
    for _ in range(30):
        books.quantise(latents, 3)
    errors = [float((books.quantise(latents, levels)[0] - latents).pow(2).mean()) for levels in (1, 2, 3)]
    assert errors[0] < 0.5
    assert errors[0] > errors[1] > errors[2]


def test_vectors_that_nothing_chooses_start_again():
    torch.manual_seed(0)
    books = CodebookTrainer(torch.zeros(1, 8, 2))
    for _ in range(200):
        books.quantise(torch.randn(1, 64, 2) + 5, 1)
    for _ in range(300):
        books.quantise(torch.randn(1, 64, 2) - 5, 1)
    assert (books.vectors[0].mean(dim=1) < 0).all()


def test_gradients_pass_the_quantiser():
    latents = torch.randn(1, 20, 4, requires_grad=True)
    quantised, _, commitment = CodebookTrainer(torch.randn(2, 8, 4)).quantise(latents, 2)
    (quantised.sum() + commitment).backward()
    assert latents.grad is not None
    assert bool((latents.grad != 0).all())


@pytest.mark.slow
def test_training_learns_resumes_and_ends_on_time(tmp_path):
    tone = torch.sin(torch.arange(6400) * 2 * torch.pi * 440 / 16_000).repeat(4, 1) * 0.3
    loss = MelLoss(16_000)

    def trained(minutes: float) -> CodecTrainer:
        training = CodecTraining(minutes, warm_up=5, learning_rate=4e-3)
        trainer = CodecTrainer(SMALL, training, tmp_path / "codec.pt")
        trainer.fit(lambda: (tone, torch.zeros(4, 20, 4)))
        return trainer

    short = trained(0.01)
    before = float(loss(short.codec.decode(short.codec.encode(tone)), tone))
    longer = trained(0.08)
    assert longer.step > short.step
    assert float(loss(longer.codec.decode(longer.codec.encode(tone)), tone)) < 0.8 * before
    again = trained(0.08)
    assert again.step == longer.step
    assert Path(tmp_path / "codec.pt").exists()
