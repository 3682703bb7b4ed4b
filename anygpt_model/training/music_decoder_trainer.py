"""Trains the music codec's decoder further while its codes stay as they are, so that nothing made of them is lost.

The language model learns codes: once they are given out, encoder and codebooks are frozen, but how a code sounds can
still get better. The result is kept only if it is nearer to held-out tunes than what was there. Knows no language
model.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..codecs.frame_codec import FrameCodec
from ..devices import mixed_precision
from . import music_data, music_trainer
from .frame_codec_trainer import MelLoss

log = logging.getLogger(__name__)

BATCH = 6
CROP_FRAMES = 20
LEARNING_RATE = 5e-4
HELD_OUT = 24
REPORT_EVERY = 50


class Clips:
    """Codes and samples of the clips of one split, cropped alike."""

    def __init__(self, work: Path, split: str) -> None:
        self._audio, self._codes = music_data.audio(work), music_trainer.tokens(work)
        self._rows = [number for number, row in enumerate(music_data.rows(work)) if row["split"] == split]

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end: codes [B, codebooks, CROP_FRAMES], samples [B, CROP_FRAMES * frame_size]."""
        rng = np.random.default_rng(seed)
        while True:
            rows = [self._rows[pick] for pick in rng.integers(0, len(self._rows), BATCH)]
            starts = rng.integers(0, self._codes.shape[2] - CROP_FRAMES + 1, BATCH)
            pairs = [self._crop(row, int(start)) for row, start in zip(rows, starts, strict=True)]
            yield torch.stack([codes for codes, _ in pairs]), torch.stack([wave for _, wave in pairs])

    def _crop(self, row: int, start: int) -> tuple[Tensor, Tensor]:
        frame = music_trainer.CODEC.frame_size
        codes = self._codes[row][:, start : start + CROP_FRAMES].astype(np.int64)
        wave = self._audio[row][start * frame : (start + CROP_FRAMES) * frame].astype(np.float32) / 32768
        return torch.from_numpy(codes), torch.from_numpy(wave)


@torch.inference_mode()
def held_out_loss(codec: FrameCodec, clips: Clips) -> float:
    """Mel and spectral distance on the same HELD_OUT crops of held-out tunes each time."""
    mel, batches = MelLoss(codec.sample_rate), clips.batches(0)
    spectrum = music_trainer.MusicLoss(codec.sample_rate).spectral
    losses = []
    for _ in range(HELD_OUT // BATCH):
        codes, wave = next(batches)
        made = codec.decode(codes)
        losses.append(float(mel(made, wave) + spectrum(made, wave)))
    return float(np.mean(losses))


def refine(codec: FrameCodec, clips: Clips, minutes: float, seed: int) -> None:
    """Trains `codec.decoder` on its own codes for `minutes` of processor time."""
    codec.train()
    near = music_trainer.MusicLoss(codec.sample_rate)
    parameters = list(codec.decoder.parameters())
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.8, 0.95), weight_decay=1e-3)
    began = time.process_time()
    losses: list[float] = []
    for step, (codes, wave) in enumerate(clips.batches(seed), 1):
        done = (time.process_time() - began) / (minutes * 60)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 20, 0.5 * (1 + math.cos(math.pi * done)) + 0.02)
        with torch.no_grad():
            latents = codec.codebooks.decode(codes)
        with mixed_precision("cpu"):
            made = codec.decoder(latents)
        loss = near(made.float(), wave) + 0.3 * (made.float() - wave).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if step % REPORT_EVERY == 0:
            log.info("step %d, %.0f %%: loss %.3f", step, 100 * done, float(np.mean(losses[-REPORT_EVERY:])))
    codec.eval()


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage: reads music/codec, trains its decoder, and writes it back if it came nearer to the held-out tunes."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = music_data.folder(work) / "codec"
    codec, test = FrameCodec.from_folder(folder), Clips(work, "test")
    before = held_out_loss(codec, test)
    refine(codec, Clips(work, "train"), minutes, seed)
    after = held_out_loss(codec, test)
    log.info("music decoder: held-out loss %.3f before, %.3f after", before, after)
    if after < before:
        codec.save_folder(folder)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
