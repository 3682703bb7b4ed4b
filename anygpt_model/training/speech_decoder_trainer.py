"""Trains the speech codec's decoder further: on its own codes, and on what SoundStorm guesses instead of them.

A reply's levels 2 to 8 are guesses. A decoder that has heard guesses beside the sound that they stand for believes
level 1, which says what is said, where they are doubtful. Codes stay as they are, so nothing made of them is lost. The
result is kept only if guesses of held-out readings come nearer to the sound. Knows no language model.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codecs.frame_codec import FrameCodec
from ..codecs.soundstorm import SoundStorm
from ..codecs.speech import STORM_WEIGHTS, SpeechCodec, fit
from ..devices import mixed_precision
from .frame_codec_trainer import MelLoss
from .sizes import sized
from .soundstorm_trainer import FILLING, STORM, VOICE_FRAMES
from .speech_data import DEFAULT_VOICE, FRAME, SAMPLE_RATE, TRAIN_VOICES, Wave, as_wave, read_shards
from .speech_tokens import Levels, read_tokens
from .speech_trainer import load_codec

log = logging.getLogger(__name__)

READINGS = {DEFAULT_VOICE: 360, TRAIN_VOICES[1]: 60, TRAIN_VOICES[2]: 60}
"""Whose readings SoundStorm fills in, and how many: most by the voice that replies are spoken in."""
TESTED = 24
CROP_FRAMES = 60
BATCH = 8
"""Half of a batch are true codes, half are guesses."""
LEARNING_RATE = 6e-4
REPORT_EVERY = 100

Pair = tuple[Levels, Levels, Wave]
"""Of one reading the true codes, what SoundStorm makes of their first level, and the samples."""


def pairs(work: Path, split: str, wanted: dict[str, int], seed: int) -> list[Pair]:
    """Readings of `split` as they are, and as SoundStorm fills them in with another reading as its prompt."""
    storm = SoundStorm(sized(work, "soundstorm", STORM))
    fit(storm, work / "speech" / "soundstorm" / STORM_WEIGHTS)
    codec = SpeechCodec(load_codec(work), storm.eval(), filling=FILLING)
    sounds = {(reading.text, reading.voice): as_wave(samples) for reading, samples in read_shards(work)}
    by_voice: dict[str, list[tuple[dict[str, Any], Levels]]] = defaultdict(list)
    for row, codes in read_tokens(work):
        if row["split"] == split and row["speed"] == 1.0:
            by_voice[row["voice"]].append((row, codes))
    rng, found = np.random.default_rng(seed), []
    for voice, count in wanted.items():
        readings = by_voice[voice]
        for number in rng.permutation(len(readings))[:count].tolist():
            row, codes = readings[number]
            prompt = np.concatenate([readings[other][1] for other in rng.integers(len(readings), size=4)], axis=1)
            heard = torch.from_numpy(prompt[:, :VOICE_FRAMES].astype(np.int64))
            with mixed_precision("cpu"):
                guessed = codec.fill(torch.from_numpy(codes[0].astype(np.int64)), number, heard)
            found.append((codes, guessed.numpy().astype(np.uint16), sounds[row["text"], voice]))
        log.info("SoundStorm filled in readings by %s: %d in all", voice, len(found))
    return found


def batches(readings: list[Pair], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: codes [BATCH, levels, CROP_FRAMES], the second half guesses, and samples."""
    rng = np.random.default_rng(seed)
    while True:
        crops = [
            _crop(readings[int(rng.integers(len(readings)))], guessed, rng)
            for guessed in (False, True)
            for _ in range(BATCH // 2)
        ]
        yield torch.stack([codes for codes, _ in crops]), torch.stack([wave for _, wave in crops])


def _crop(pair: Pair, guessed: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    codes, wave = pair[1 if guessed else 0], pair[2]
    start = int(rng.integers(0, max(1, codes.shape[1] - CROP_FRAMES + 1)))
    cut = codes[:, start : start + CROP_FRAMES]
    sound = wave[start * FRAME : (start + cut.shape[1]) * FRAME]
    short = CROP_FRAMES - cut.shape[1]
    # A short reading comes twice: silence at its end would need codes of its own.
    cut = np.concatenate([cut, codes[:, :short]], axis=1) if short else cut
    sound = np.concatenate([sound, wave[: short * FRAME]]) if short else sound
    return torch.from_numpy(cut.astype(np.int64)), torch.from_numpy(sound)


@torch.inference_mode()
def held_out_loss(codec: FrameCodec, readings: list[Pair]) -> tuple[float, float]:
    """Mel distance of whole held-out readings from their true codes, and from SoundStorm's guesses."""
    mel = MelLoss(SAMPLE_RATE)
    losses: list[NDArray[np.float64]] = []
    for true, guessed, wave in readings:
        made = [codec.decode(torch.from_numpy(codes.astype(np.int64))[None]) for codes in (true, guessed)]
        losses.append(np.array([float(mel(each, torch.from_numpy(wave)[None])) for each in made]))
    own, others = np.mean(losses, axis=0)
    return float(own), float(others)


def refine(codec: FrameCodec, readings: list[Pair], minutes: float, seed: int) -> None:
    """Trains `codec.decoder` for `minutes` of processor time."""
    codec.train()
    mel = MelLoss(SAMPLE_RATE)
    parameters = list(codec.decoder.parameters())
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.8, 0.95), weight_decay=1e-3)
    began = time.process_time()
    losses: list[tuple[float, float]] = []
    for step, (codes, wave) in enumerate(batches(readings, seed), 1):
        done = (time.process_time() - began) / (minutes * 60)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 50, 0.5 * (1 + math.cos(math.pi * done)) + 0.02)
        with torch.no_grad():
            latents = codec.codebooks.decode(codes)
        with mixed_precision("cpu"):
            made = codec.decoder(latents)
        half = BATCH // 2
        own, others = mel(made[:half].float(), wave[:half]), mel(made[half:].float(), wave[half:])
        loss = own + others + 0.3 * (made[:half].float() - wave[:half]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append((own.item(), others.item()))
        if step % REPORT_EVERY == 0:
            told = np.mean(losses[-REPORT_EVERY:], axis=0)
            log.info("step %d, %.0f %%: mel %.3f of true codes, %.3f of guesses", step, 100 * done, *told)
    codec.eval()


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage: reads speech/codec and speech/soundstorm, trains the decoder, writes the codec back if it helped."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    codec = load_codec(work)
    test = pairs(work, "test", {DEFAULT_VOICE: TESTED}, seed)
    before = held_out_loss(codec, test)
    refine(codec, pairs(work, "train", READINGS, seed), minutes, seed)
    after = held_out_loss(codec, test)
    log.info("speech decoder: held-out mel of true codes %.3f before, %.3f after; of guesses %.3f, %.3f",
             before[0], after[0], before[1], after[1])  # fmt: skip
    if after[1] < before[1]:
        codec.save_folder(work / "speech" / "codec", "ckpt.safetensors")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
