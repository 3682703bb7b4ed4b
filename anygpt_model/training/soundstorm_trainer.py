"""Trains the pocket's SoundStorm: the published network, made to learn in minutes.

Two things are other than in the published recipe, and neither shows in the result. Embeddings and output classes are
linear maps of the codec's own vectors while training (near sounds start near each other) and are written out as the
published tables at the end. And each step trains every level: the sequences of a batch stand at different levels, and
the levels above a sequence's own are guessed too, for a little loss, where the published objective trains one level a
step. Sequences are readings of one voice, end to end: a random beginning is the prompt. Knows nothing of the language
model.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..codecs.soundstorm import LevelLogits, SoundStorm, SoundStormConfig
from ..codecs.speech import Filling, save_storm
from ..devices import mixed_precision
from .sizes import sized
from .speech_data import DEFAULT_VOICE
from .speech_tokens import Levels, read_tokens
from .speech_trainer import load_codec

log = logging.getLogger(__name__)

STORM = SoundStormConfig(dim=192, depth=3, heads=4, dim_head=48, conv_kernel_size=15)
OFTEN, SELDOM = (0, 0, 1, 2), (3, 4, 5, 6)
"""Levels (0: the codec's second) at which the sequences of a batch stand: all of the first, in turn one of the others.
The first ones carry most of the sound."""
ABOVE = 0.2
"""What a guess at a level above the sequence's own counts."""
FRAMES = 208
LONGEST_PROMPT = 120
OFTEN_HEARD = {DEFAULT_VOICE: 100.0, "rms": 30.0, "awb": 30.0}
"""How often a voice is learnt from; 1 where nothing is said."""
LEARNING_RATE = 2e-3
WARM_UP = 100
REPORT_EVERY = 50
SAVE_EVERY_S = 120.0
VOICE_FRAMES = 100
FILLING = Filling(steps=3, prompt=VOICE_FRAMES, window=FRAMES)


class TiedTables(nn.Module):
    """SoundStorm's embeddings and classes as maps of the codec's vectors [levels, size, latent], while it trains."""

    def __init__(self, vectors: Tensor, storm: SoundStorm) -> None:
        super().__init__()
        levels, dim = storm.config.num_quantizers, storm.config.dim
        self.vectors: Tensor
        self.register_buffer("vectors", vectors / vectors.std(dim=(1, 2), keepdim=True))
        latent = vectors.shape[-1]
        self.inward = nn.Parameter(torch.randn(levels + 1, latent, dim) / math.sqrt(latent))
        self.outward = nn.Parameter(torch.randn(levels, dim, latent) / math.sqrt(dim * latent))
        self.masked = nn.Parameter(torch.randn(levels, 1, dim) * 0.1)
        self.semantic_rest = nn.Parameter(torch.zeros(vectors.shape[1], dim))

    def semantic(self) -> Tensor:
        """Level 1's embeddings [size, dim]: the map of its vectors and a rest of their own."""
        return self.vectors[0] @ self.inward[0] + self.semantic_rest

    def embeddings(self) -> Tensor:
        """The acoustic levels' embeddings, each with its mask: [levels * (size + 1), dim]."""
        tables = torch.cat((self.vectors[1:] @ self.inward[1:], self.masked), dim=1)
        return tables.flatten(0, 1)

    def classes(self, level: int) -> Tensor:
        """Level `level`'s output classes [dim, size]."""
        return self.outward[level] @ self.vectors[level + 1].t()

    @torch.no_grad()
    def write_into(self, storm: SoundStorm) -> None:
        """Writes the tables where the published network has them."""
        storm.semantic_token_emb.weight.copy_(self.semantic())
        storm.net.code_embeds.weight.copy_(self.embeddings())
        logits = storm.net.to_logits["2"]
        assert isinstance(logits, LevelLogits)
        logits.weight.copy_(torch.stack([self.classes(level) for level in range(storm.config.num_quantizers)]))


class Sequences:
    """Readings of one voice at one speed, end to end, FRAMES long; `prompts` frames of each are given."""

    def __init__(self, readings: list[tuple[dict[str, Any], Levels]], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._by_voice: dict[tuple[str, float], list[Levels]] = defaultdict(list)
        for row, codes in readings:
            self._by_voice[row["voice"], row["speed"]].append(codes)
        self._voices = list(self._by_voice)
        often = np.array([OFTEN_HEARD.get(voice, 1.0) for voice, _ in self._voices])
        self._often = often / often.sum()

    def batch(self, size: int) -> tuple[Tensor, NDArray[np.int64]]:
        """Codes int64 [size, FRAMES, levels] and how many frames of each are the prompt."""
        codes = np.stack([self._sequence() for _ in range(size)]).astype(np.int64)
        return torch.from_numpy(codes), self._rng.integers(0, LONGEST_PROMPT + 1, size)

    def _sequence(self) -> Levels:
        readings = self._by_voice[self._voices[int(self._rng.choice(len(self._voices), p=self._often))]]
        parts: list[Levels] = []
        while sum(part.shape[1] for part in parts) < 2 * FRAMES:
            parts.append(readings[int(self._rng.integers(len(readings)))])
        whole = np.concatenate(parts, axis=1)
        start = int(self._rng.integers(0, whole.shape[1] - FRAMES + 1))
        return whole[:, start : start + FRAMES].T


class StormTrainer:
    """SoundStorm in training: `fit` continues where its checkpoint stopped and ends when the budget is used."""

    def __init__(
        self, vectors: Tensor, minutes: float, seed: int, checkpoint: Path, config: SoundStormConfig = STORM
    ) -> None:
        torch.manual_seed(seed)
        self.minutes, self.checkpoint = minutes, checkpoint
        self.storm = SoundStorm(config)
        self.tables = TiedTables(vectors, self.storm)
        own = [p for name, p in self.storm.named_parameters() if not _written(name)]
        self.parameters = [*own, *self.tables.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.97), weight_decay=0.01)
        self.step, self.spent_s = 0, 0.0
        if checkpoint.exists():
            self._resume()

    def start_from(self, readings: list[tuple[dict[str, Any], Levels]]) -> None:
        """Lets each level begin with how often its codes are, unless a checkpoint has been resumed."""
        if self.step:
            return
        logits = self.storm.net.to_logits["2"]
        assert isinstance(logits, LevelLogits)
        codes = torch.from_numpy(np.concatenate([codes for _, codes in readings], axis=1)[1:].astype(np.int64))
        counts = torch.stack([torch.bincount(level, minlength=self.storm.config.codebook_size) for level in codes])
        with torch.no_grad():
            logits.bias[0, 0] = torch.log((counts + 0.5) / codes.shape[1])

    def fit(self, sequences: Sequences) -> SoundStorm:
        """Trains until `minutes` of processor time are used; the network in the published shape."""
        rates: list[dict[int, float]] = []
        saved, began = time.monotonic(), time.process_time() - self.spent_s
        while self.spent_s < self.minutes * 60:
            self._set_rate()
            levels = [*OFTEN, SELDOM[self.step % len(SELDOM)]]
            codes, prompts = sequences.batch(len(levels))
            rates.append(self._train_step(codes, prompts, levels))
            self.step += 1
            self.spent_s = time.process_time() - began
            if self.step % REPORT_EVERY == 0:
                recent = rates[-REPORT_EVERY:]
                seen = {level: [rate[level] for rate in recent if level in rate] for level in (*OFTEN, *SELDOM)}
                told = " ".join(f"{level + 2}: {np.mean(shares):.3f}" for level, shares in seen.items())
                log.info("step %d, %.1f min: right at level %s", self.step, self.spent_s / 60, told)
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()
        self._save()
        self.tables.write_into(self.storm)
        return self.storm.eval()

    def _train_step(self, codes: Tensor, prompts: NDArray[np.int64], levels: list[int]) -> dict[int, float]:
        """One step; the share of right guesses of each level."""
        hidden_at = torch.stack([_hidden(int(t), level) for t, level in zip(prompts, levels, strict=True)])
        acoustic = codes[:, :, 1:]
        given = torch.where(hidden_at, self.storm.mask_id, acoustic)
        # The fused attention's backward pass is four times slower than its parts on a CPU.
        with mixed_precision("cpu"), sdpa_kernel(SDPBackend.MATH):
            thought = self._thoughts(given, codes[:, :, 0])
        standing = torch.tensor(levels)[:, None].expand(hidden_at.shape[:2])
        total, right = torch.zeros(()), {}
        for level in range(self.storm.config.num_quantizers):
            asked = hidden_at[:, :, level]
            own = standing[asked] == level
            with mixed_precision("cpu"):
                logits = self._logits(thought[asked], level)
            wanted = acoustic[:, :, level][asked]
            loss = F.cross_entropy(logits.float(), wanted, reduction="none") * torch.where(own, 1.0, ABOVE)
            total = total + loss.sum() / asked.shape[1]
            if own.any():
                right[level] = float((logits.argmax(dim=-1) == wanted)[own].float().mean())
        self.optimiser.zero_grad()
        torch.autograd.backward(total / len(levels))
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return right

    def _thoughts(self, given: Tensor, semantic: Tensor) -> Tensor:
        net = self.storm.net
        offsets = torch.arange(net.levels) * net.stride
        summed = F.embedding(given + offsets, self.tables.embeddings()).sum(dim=2)
        made: Tensor = net.conformer(summed + F.embedding(semantic, self.tables.semantic()), None)
        return made

    def _logits(self, thought: Tensor, level: int) -> Tensor:
        """Logits [n, size] of one level for n frames."""
        dim, head, logits = self.storm.config.dim, self.storm.net.heads[0], self.storm.net.to_logits["2"]
        assert isinstance(head, nn.Linear)
        assert isinstance(logits, LevelLogits)
        part = slice(level * dim, (level + 1) * dim)
        guess = self.storm.net.to_logits["0"](F.linear(thought, head.weight[part], head.bias[part]))
        made: Tensor = guess @ self.tables.classes(level) + logits.bias[0, 0, level]
        return made

    def _set_rate(self) -> None:
        done = self.spent_s / (self.minutes * 60)
        fall = max(0.03, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * fall * min(1.0, (self.step + 1) / WARM_UP)

    def _save(self) -> None:
        state = {
            "storm": self.storm.state_dict(),
            "tables": self.tables.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
        }
        fresh = self.checkpoint.with_suffix(".part")
        torch.save(state, fresh)
        fresh.rename(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.storm.load_state_dict(state["storm"])
        self.tables.load_state_dict(state["tables"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        log.info("resumed at step %d after %.1f min", self.step, self.spent_s / 60)


def _written(name: str) -> bool:
    """Whether TiedTables writes this tensor at the end."""
    return name in ("net.code_embeds.weight", "net.to_logits.2.weight", "semantic_token_emb.weight")


def _hidden(prompt: int, level: int) -> Tensor:
    """Which codes [FRAMES, levels] are masked: after the prompt, all above `level`, and of `level` itself all, or a
    random part where it is the first, which alone is filled in by rounds."""
    hidden = torch.zeros(FRAMES, STORM.num_quantizers, dtype=torch.bool)
    hidden[prompt:, level:] = True
    if level == 0:
        share = math.cos(math.pi / 2 * float(torch.rand(())))
        kept = torch.rand(FRAMES - prompt) > max(share, 0.05)
        hidden[prompt:, 0] &= ~kept
        hidden[-1, 0] = True
    return hidden


def default_voice(readings: list[tuple[dict[str, Any], Levels]]) -> Tensor:
    """The codes [levels, VOICE_FRAMES] of the default voice: some of its trained readings, end to end."""
    own = [codes for row, codes in readings if row["voice"] == DEFAULT_VOICE and row["speed"] == 1.0]
    return torch.from_numpy(np.concatenate(own[:8], axis=1)[:, :VOICE_FRAMES].astype(np.int32))


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "soundstorm": trains within `minutes` of processor time and writes `work`/speech/soundstorm."""
    torch.set_num_threads(1)
    spoken = [(row, codes) for row, codes in read_tokens(work) if row["split"] == "train"]
    readings = [(row, codes) for row, codes in spoken if row["speed"] == 1.0]
    vectors = load_codec(work).codebooks.vectors.clone()
    config = sized(work, "soundstorm", STORM)
    trainer = StormTrainer(vectors, minutes, seed, work / "speech" / "soundstorm.pt", config)
    trainer.start_from(readings)
    storm = trainer.fit(Sequences(readings, seed))
    save_storm(storm, work / "speech" / "soundstorm", asdict(config) | asdict(FILLING), default_voice(readings))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
