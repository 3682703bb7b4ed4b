"""The decoder learns from true codes and from guesses; encoder and codes stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anyloom.anygpt_model.codecs.frame_codec import FrameCodec, FrameCodecConfig
from anyloom.anygpt_model.training import speech_decoder_trainer as trainer
from anyloom.anygpt_model.training.speech_data import FRAME

SMALL = FrameCodecConfig(n_mels=20, width=16, latent=8, encoder_blocks=1, decoder_blocks=1, cardinality=16)


def pair(frames: int, value: int) -> trainer.Pair:
    """A reading whose true codes are `value`, its guesses one more, its samples `value` tenths."""
    true = np.full((8, frames), value, np.uint16)
    return true, true + 1, np.full(frames * FRAME, value / 10, np.float32)


def test_half_of_a_batch_are_guesses_and_samples_belong_to_codes() -> None:
    codes, waves = next(trainer.batches([pair(80, 2), pair(90, 5)], 0))
    assert codes.shape == (trainer.BATCH, 8, trainer.CROP_FRAMES)
    assert waves.shape == (trainer.BATCH, trainer.CROP_FRAMES * FRAME)
    half = trainer.BATCH // 2
    told = (waves[:, 0] * 10).round().long()
    assert torch.equal(codes[:half, 0, 0], told[:half])
    assert torch.equal(codes[half:, 0, 0], told[half:] + 1)


def test_a_short_reading_fills_the_crop_with_itself() -> None:
    codes, waves = next(trainer.batches([pair(trainer.CROP_FRAMES - 9, 3)], 0))
    assert set(codes.flatten().tolist()) == {3, 4}
    assert float(waves.min()) == pytest.approx(0.3)


@pytest.mark.slow
def test_refining_keeps_every_code_and_comes_nearer() -> None:
    torch.manual_seed(0)
    codec = FrameCodec(SMALL).eval()
    wave = (np.sin(np.arange(120 * FRAME) * 0.05) * 0.5).astype(np.float32)
    codes = codec.encode(torch.from_numpy(wave)[None])[0].numpy().astype(np.uint16)
    readings = [(codes, codes[:, ::-1].copy(), wave)]
    before = trainer.held_out_loss(codec, readings)
    trainer.refine(codec, readings, 0.1, 0)
    after = trainer.held_out_loss(codec, readings)
    assert np.array_equal(codec.encode(torch.from_numpy(wave)[None])[0].numpy(), codes)
    assert after[0] < before[0]
    assert after[1] < before[1]
