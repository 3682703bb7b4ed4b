"""Trains the pocket's music codec on the played tunes, writes it, and turns every clip into codes.

The frame codec at 24 kHz with 12 frames a second and four codebooks, two of them used: five seconds are 240 tokens of
the language model, half of them always the same. A beat of the tunes is a whole number of frames, so the same note is
nearly always cut into frames alike. No teacher: level 1 has nothing to be pulled to. Knows nothing of the language
model.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codecs.frame_codec import FrameCodec, FrameCodecConfig
from . import music_data
from .frame_codec_trainer import Batch, CodecTrainer, CodecTraining, MelLoss
from .sizes import sized

log = logging.getLogger(__name__)

CODEC = FrameCodecConfig(
    sample_rate=music_data.SAMPLE_RATE,
    hop=400,
    stack=5,
    window=1600,
    n_mels=128,
    decoder_blocks=5,
    num_codebooks=4,
    semantic_width=0,
)
LEVELS = 2
"""Levels that are trained: two tell the instrument as well as four, and a language model can foresee them. The others,
which the vocabulary has, say nothing: their codes are 0."""
CROP_FRAMES = 20
BATCH = 6
CHANGED = 0.15
"""Share of the crops that are moved off the frames, made louder or softer, or mixed: for sounds from elsewhere."""
TOKENS = "tokens.npz"

Samples = NDArray[np.float32]


class MusicBatches:
    """Random crops of the clips that are trained on, cut where frames begin; a few are changed."""

    def __init__(self, work: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._audio = music_data.audio(work)
        self._trained = [number for number, row in enumerate(music_data.rows(work)) if row["split"] == "train"]

    def __call__(self) -> Batch:
        return torch.from_numpy(np.stack([self._sound() for _ in range(BATCH)])), None

    def _sound(self) -> Samples:
        if self._rng.random() > CHANGED:
            return self._crop(CODEC.frame_size)
        crop = self._crop()
        if self._rng.random() < 0.3:
            crop = 0.7 * (crop + self._crop())
        gain = 10 ** (self._rng.uniform(-8, 3) / 20)
        levelled: Samples = np.clip(crop * gain, -1, 1).astype(np.float32)
        return levelled

    def _crop(self, grid: int = 1) -> Samples:
        clip = self._audio[self._trained[self._rng.integers(len(self._trained))]]
        length = CROP_FRAMES * CODEC.frame_size
        start = grid * int(self._rng.integers(0, (len(clip) - length) // grid + 1))
        cut: Samples = clip[start : start + length].astype(np.float32) / 32768
        return cut


class MusicLoss(MelLoss):
    """One of the four mel windows a step, drawn anew (the same on average for less), and the spectrum by itself:
    harmonics lie closer to each other than mel bands."""

    def __init__(self, sample_rate: int, window: int = 2048) -> None:
        super().__init__(sample_rate)
        self._all, self._window = list(self.mels), torch.hann_window(window)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        drawn = int(torch.randint(len(self._all), ()))
        self.mels = nn.ModuleList([self._all[drawn]])
        return super().forward(made, wanted) + self.spectral(made, wanted)

    def spectral(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Mean distance of the log-magnitudes of two sounds [B, T]."""
        return (self._levels(made) - self._levels(wanted)).abs().mean()

    def _levels(self, sound: Tensor) -> Tensor:
        """Log magnitudes of `sound` [B, T], windows half over each other."""
        size = len(self._window)
        spectrum = torch.view_as_real(torch.fft.rfft(sound.unfold(-1, size, size // 2) * self._window))
        return torch.log(spectrum.square().sum(dim=-1).clamp(min=1e-10).sqrt() + 1e-2)


def widened(codec: FrameCodec) -> FrameCodec:
    """`codec` with as many levels as CODEC has; the vectors of those that were not trained are zero."""
    whole = FrameCodec(replace(codec.config, num_codebooks=CODEC.num_codebooks))
    vectors = torch.zeros_like(whole.codebooks.vectors)
    vectors[: codec.num_codebooks] = codec.codebooks.vectors
    whole.load_state_dict({**codec.state_dict(), "codebooks.vectors": vectors})
    return whole.eval()


def encode_clips(codec: FrameCodec, work: Path, batch: int = 16) -> NDArray[np.int16]:
    """Codes int16 [clips, codebooks, frames] of every clip, held-out ones too."""
    audio, made = music_data.audio(work), []
    for start in range(0, len(audio), batch):
        waves = torch.from_numpy(audio[start : start + batch].astype(np.float32) / 32768)
        made.append(codec.encode(waves).numpy().astype(np.int16))
    return np.concatenate(made)


def tokens(work: Path) -> NDArray[np.int16]:
    """The codes that the stage wrote, [clips, codebooks, frames], in the order of music_data.rows."""
    with np.load(music_data.folder(work) / TOKENS) as stored:
        codes: NDArray[np.int16] = stored["codes"]
    return codes


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Trains within `minutes` of processor time, writes music/codec, then music/tokens.npz."""
    torch.set_num_threads(1)
    home = music_data.folder(work)
    config = replace(sized(work, "music", CODEC), num_codebooks=LEVELS)
    trainer = CodecTrainer(config, CodecTraining(minutes, seed), home / "codec.pt")
    trainer.mel = MusicLoss(CODEC.sample_rate)
    codec = trainer.fit(MusicBatches(work, seed))
    widened(codec).save_folder(home / "codec")
    write_tokens(work)


def write_tokens(work: Path) -> None:
    """music/tokens.npz from the codec as it was written: 16-bit weights choose the codes that a user's will choose."""
    home = music_data.folder(work)
    codes = encode_clips(FrameCodec.from_folder(home / "codec"), work)
    np.savez_compressed(home / TOKENS, codes=codes)
    about = {"clips": len(codes), "codebooks": codes.shape[1], "frames": codes.shape[2]}
    (home / "tokens.json").write_text(json.dumps(about), "utf-8")
    log.info("music tokens: %s", about)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
