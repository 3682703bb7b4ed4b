"""Trains a frame codec within a time budget: any source of batches, mel losses, moving-average codebooks, checkpoints.

Codebooks follow the vectors that they stand for by moving averages, and a vector that nothing chooses starts again at
one that something needs. Now and then only the first levels are used, so that a few levels alone sound too. Where
sounds have a meaning, level 1 gets dimensions of its own for it: its vectors are zero elsewhere and the other levels'
are zero there, so a level's nearest vector to the whole latent is the nearest to its part. Knows neither speech nor
music: the caller brings the batches and the configuration.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codecs.frame_codec import FrameCodec, FrameCodecConfig, LogMel
from ..devices import mixed_precision

log = logging.getLogger(__name__)

Batch = tuple[Tensor, tuple[Tensor, Tensor] | None]
"""Samples [B, T], T a multiple of the frame size, and, where level 1 has teachers, what it is to tell: a recogniser's
features [B, frames, width] and labels [B, frames]."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Level 1 by itself: its dimensions (the first ones), how many of its vectors are used, how many labels there are.

    Fewer vectors than the codebook has make codes that a language model foresees; the rest are copies of the first.
    """

    dims: int
    vectors: int
    labels: int


@dataclass(frozen=True, slots=True)
class CodecTraining:
    """How long and how hard to train. Losses: mel + features + 0.4 labels + 0.25 commitment + 0.3 samples.

    minutes: of processor time, not of the clock, so that a busy machine makes the same codec.
    """

    minutes: float
    seed: int = 0
    learning_rate: float = 8e-4
    warm_up: int = 150
    all_levels: float = 0.6
    """Share of the steps that use every level; a tenth uses level 1 alone, the rest a random number of levels."""
    meaning: Meaning | None = None
    report_every: int = 100
    save_every_s: float = 120.0


class CodebookTrainer:
    """Quantises with a codec's codebooks and moves them: averages of what chose each vector, restarts of the unused."""

    def __init__(
        self, vectors: Tensor, meaning: Meaning | None = None, decay: float = 0.98, unused_below: float = 0.05
    ) -> None:
        self.vectors, self.meaning, self.decay, self.unused_below = vectors, meaning, decay, unused_below
        self.counts = torch.ones(vectors.shape[:2])
        self.sums = vectors.clone()
        self.started = torch.zeros(len(vectors), dtype=torch.bool)
        self.parts = torch.ones(len(vectors), vectors.shape[-1])
        if meaning:
            self.parts[0, meaning.dims :] = 0
            self.parts[1:, : meaning.dims] = 0
        self.sizes = [vectors.shape[1]] * len(vectors)
        if meaning:
            self.sizes[0] = meaning.vectors

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the vectors themselves."""
        return {"counts": self.counts, "sums": self.sums, "started": self.started}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continues from a checkpoint's `state`."""
        self.counts, self.sums, self.started = state["counts"], state["sums"], state["started"]

    def quantise(self, latents: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, T, D] -> (straight-through sum of `levels` levels, level 1's part of it, commitment loss)."""
        target = latents.float()
        residual = target.reshape(-1, target.shape[-1])
        total, commitment = torch.zeros_like(residual), torch.zeros(())
        first = target
        for level in range(levels):
            own = residual * self.parts[level]
            chosen = self._choose(level, own.detach())
            commitment = commitment + F.mse_loss(own, chosen)
            total = total + chosen
            residual = residual - chosen
            if level == 0:
                first = target * self.parts[0]
                first = first + (chosen.view_as(target) - first).detach()
        # How a sound is made again must not change what level 1 says of it.
        free = target * self.parts[-1]
        return free + (total.view_as(target) - free).detach(), first, commitment / levels

    @torch.no_grad()
    def _choose(self, level: int, residual: Tensor) -> Tensor:
        if not self.started[level]:
            self._start(level, residual)
        book = self.vectors[level, : self.sizes[level]]
        index = (2 * residual @ book.t() - (book**2).sum(1)).argmax(dim=-1)
        chosen = book[index]
        self._move(level, residual, index)
        return chosen

    def _start(self, level: int, residual: Tensor) -> None:
        picked = residual[torch.randint(0, len(residual), (self.vectors.shape[1],))]
        self.vectors[level] = picked + 0.01 * residual.std() * torch.randn_like(picked) * self.parts[level]
        self.sums[level], self.counts[level], self.started[level] = self.vectors[level], 1.0, True

    def _move(self, level: int, residual: Tensor, index: Tensor) -> None:
        size = self.sizes[level]
        counts, sums, book = (each[level, :size] for each in (self.counts, self.sums, self.vectors))
        fresh = torch.zeros_like(counts).index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
        counts.mul_(self.decay).add_(fresh, alpha=1 - self.decay)
        sums.mul_(self.decay).add_(torch.zeros_like(sums).index_add_(0, index, residual), alpha=1 - self.decay)
        book.copy_(sums / (counts[:, None] + 1e-5))
        unused = counts < self.unused_below
        needed = residual[torch.randint(0, len(residual), (int(unused.sum()),))]
        book[unused], sums[unused], counts[unused] = needed, needed * 0.3, 0.3
        self.vectors[level, size:] = book[0]


class MelLoss(nn.Module):
    """Distance of two sounds in log-mel and mel, over four windows from 20 to 128 ms."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        windows = [
            (int(sample_rate * ms / 1000) // 8 * 8, mels) for ms, mels in ((20, 40), (40, 64), (80, 80), (128, 100))
        ]
        self.mels = nn.ModuleList(LogMel(sample_rate, window, window // 4, mels) for window, mels in windows)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        total = torch.zeros(())
        for mel in self.mels:
            ours = mel(made)
            with torch.no_grad():
                theirs = mel(wanted)
            total = total + (ours - theirs).abs().mean() + 2 * (ours.exp() - theirs.exp()).abs().mean()
        return total / len(self.mels)


class CodecTrainer:
    """One codec in training: `fit` continues where its checkpoint stopped and ends when the budget is used."""

    def __init__(
        self, config: FrameCodecConfig, training: CodecTraining, checkpoint: Path, start: FrameCodec | None = None
    ) -> None:
        """start: a trained codec of the same sizes to go on from; what its codes stand for moves little by little."""
        torch.manual_seed(training.seed)
        self.training, self.checkpoint = training, checkpoint
        self.codec = FrameCodec(config)
        if start:
            self.codec.load_state_dict(start.state_dict())
        meaning = training.meaning
        self.teacher = nn.Linear(config.latent, config.semantic_width + meaning.labels) if meaning else None
        self.books = CodebookTrainer(self.codec.codebooks.vectors, meaning)
        self.books.started.fill_(start is not None)
        self.mel = MelLoss(config.sample_rate)
        self.parameters = [*self.codec.parameters(), *(self.teacher.parameters() if self.teacher else ())]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-3, betas=(0.8, 0.95), weight_decay=1e-3)
        self.step, self.spent_s = 0, 0.0
        if checkpoint.exists():
            self._resume()

    def fit(self, batches: Callable[[], Batch]) -> FrameCodec:
        """Trains on what `batches` brings until the budget is used; the codec, ready for use."""
        self.codec.train()
        losses: list[dict[str, float]] = []
        saved, began = time.monotonic(), time.process_time() - self.spent_s
        while self.spent_s < self.training.minutes * 60:
            self._set_rate()
            losses.append(self._train_step(*batches()))
            self.step += 1
            self.spent_s = time.process_time() - began
            if self.step % self.training.report_every == 0:
                self._report(losses[-self.training.report_every :])
            if time.monotonic() - saved > self.training.save_every_s:
                self._save()
                saved = time.monotonic()
        self._save()
        return self.codec.eval()

    def _levels(self) -> int:
        most = self.codec.num_codebooks
        draw = float(torch.rand(()))
        if self.step < self.training.warm_up or draw < self.training.all_levels or most < 3:
            return most
        if draw < self.training.all_levels + 0.1 and not self.training.meaning:
            return 1
        return int(torch.randint(2, most, ()))

    def _train_step(self, wave: Tensor, told: tuple[Tensor, Tensor] | None) -> dict[str, float]:
        levels = self._levels()
        with mixed_precision("cpu"):
            latents = self.codec.encoder(wave)
        quantised, first, commitment = self.books.quantise(latents, levels)
        with mixed_precision("cpu"):
            made = self.codec.decoder(quantised)
        mel, samples = self.mel(made.float(), wave), (made.float() - wave).abs().mean()
        loss = mel + 0.25 * commitment + 0.3 * samples
        named = {"mel": mel, "commitment": commitment, "samples": samples}
        if self.teacher is not None and told is not None:
            features, labels = told
            guess = self.teacher(first)
            width = features.shape[-1]
            named["features"] = (1 - F.cosine_similarity(guess[..., :width], features, dim=-1)).mean()
            named["labels"] = F.cross_entropy(guess[..., width:].flatten(0, 1), labels.flatten())
            loss = loss + named["features"] + 0.4 * named["labels"]
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return {"levels": levels, **{name: value.item() for name, value in named.items()}}

    def _set_rate(self) -> None:
        done = self.spent_s / (self.training.minutes * 60)
        fall = 1.0 if done < 0.3 else max(0.04, 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.learning_rate * fall * min(1.0, (self.step + 1) / self.training.warm_up)

    def _report(self, losses: list[dict[str, float]]) -> None:
        full = [entry for entry in losses if entry["levels"] == self.codec.num_codebooks]
        mean = {name: sum(entry[name] for entry in full) / max(1, len(full)) for name in losses[0]}
        used = (self.books.counts > 2 * self.books.unused_below).sum(dim=1).tolist()
        told = " ".join(f"{name} {value:.3f}" for name, value in mean.items() if name != "levels")
        log.info("step %d, %.1f min: %s, vectors used %s", self.step, self.spent_s / 60, told, used)

    def _save(self) -> None:
        state: dict[str, Any] = {
            "codec": self.codec.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher else None,
            "books": self.books.state(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.checkpoint.with_suffix(".part")
        torch.save(state, fresh)
        fresh.rename(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.codec.load_state_dict(state["codec"])
        if self.teacher:
            self.teacher.load_state_dict(state["teacher"])
        self.books.load(state["books"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        log.info("resumed at step %d after %.1f min", self.step, self.spent_s / 60)
