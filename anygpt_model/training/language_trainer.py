"""Trains the pocket's language model on chats within a given time, resumes, and writes it in the published layout.

Matrices are trained by Muon, embeddings and norms by AdamW; the learning rate follows the share of the processor time
that is used up. New codes are taken in while it trains. Knows no codec: it reads what the codecs' trainers wrote.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..devices import halves_fast
from ..errors import CheckpointError
from ..values import Modality
from ..vocabulary import Vocabulary
from .language_choices import Choices
from .language_data import Chats, Example
from .language_media import noisy
from .language_network import Shape, TrainingLlama
from .language_texts import corpus
from .language_tokenizer import train_pieces, write_tokenizer
from .muon import Muon
from .sizes import sized

log = logging.getLogger(__name__)

CODES = {Modality.IMAGE: 1024, Modality.SPEECH: 1024, Modality.MUSIC: 4 * 1024}
"""Code tokens of each modality: the cardinality of the pocket's codecs times the codebooks that the model sees."""
DRAWN: dict[str, dict[str, float]] = {
    "text": {"temperature": 0.2},
    "image": {"temperature": 0.2},
    "speech": {"temperature": 0.2, "repetition_penalty": 1.0},
    "music": {"temperature": 0.7, "top_k": 50, "repetition_penalty": 1.0},
}
"""The pocket's sampling over the published defaults: a small model's tails hold little worth drawing."""
IGNORED = -1
POOL = 256
"""Chats that are sorted by length and cut into batches together, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The dials. batch_ids: ids of a batch, padding included. noise: share of input codes replaced by others."""

    hidden: int = 256
    layers: int = 4
    dropout: float = 0.0
    noise: float = 0.05
    batch_ids: int = 4096
    matrix_rate: float = 2.5e-3
    other_rate: float = 2e-3
    warm_up: int = 60
    decay_from: float = 0.45
    last_share: float = 0.04
    judge_s: float = 230.0
    export_s: float = 240.0
    judged: int = 24

    def shape(self, vocabulary: Vocabulary) -> Shape:
        """The network's sizes: heads of 64, a feed-forward of 8/3 in steps of 16."""
        inner = 16 * round(self.hidden * 8 / 3 / 16)
        return Shape(vocabulary.size, self.hidden, inner, self.layers, self.hidden // 64)


class LanguageTrainer:
    """One training: data, network, optimisers, and their state in `work`/language."""

    def __init__(self, work: Path, device: str = "cpu", seed: int = 0, plan: Plan | None = None) -> None:
        self.home = work / "language"
        self.plan = plan or sized(work, "language", Plan())
        self.vocabulary = tokenizer(work)
        self.chats = Chats(work, self.vocabulary, seed)
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.choices = Choices(self.vocabulary)
        dtype = torch.bfloat16 if halves_fast(self.device) else torch.float32
        self.network = TrainingLlama(self.plan.shape(self.vocabulary), self.plan.dropout, dtype).to(self.device)
        self.optimisers = optimisers(self.network, self.plan)
        self.step, self.seen, self.elapsed = 0, 0, 0.0
        self._resume()

    def fit(self, minutes: float) -> None:
        """Train until `minutes` of processor time in all, earlier runs counted, are used up; writes as it goes."""
        began, judged, exported = time.process_time() - self.elapsed, self.elapsed, self.elapsed
        for batch in self._batches():
            self.elapsed = time.process_time() - began
            if self.elapsed >= minutes * 60:
                break
            loss = self._learn(batch, self.elapsed / (minutes * 60))
            if self.step % 25 == 0:
                log.info("step %d, %.1f min: loss %.3f, %d ids", self.step, self.elapsed / 60, loss, self.seen)
            if self.elapsed - judged >= self.plan.judge_s:
                judged = self.elapsed
                self.judge()
            if self.elapsed - exported >= self.plan.export_s:
                exported = self.elapsed
                self.save()
        self.judge()
        self.save()

    def judge(self) -> dict[str, float]:
        """Held-out loss in nats a counted id, by direction."""
        self.network.eval()
        losses: dict[str, float] = {}
        with torch.no_grad():
            for direction, examples in self.chats.held_out(self.plan.judged).items():
                batches = list(batched(examples, self.plan.batch_ids))
                each = [self.network.losses(*self._tensors(batch, noise=0.0), self.choices) for batch in batches]
                losses[direction] = float(torch.cat(each).mean())
        self.network.train()
        log.info("held out: %s", ", ".join(f"{k} {v:.3f}" for k, v in losses.items()))
        return losses

    def save(self) -> None:
        """Write the training's state, and the model to `work`/language/llm."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "counts": (self.step, self.seen, self.elapsed),
        }
        fresh = self.home / "state.part"
        torch.save(state, fresh)
        fresh.replace(self.home / "state.pt")
        export(self.network.shape, self.network.state_dict(), self.home / "tokenizer", self.home / "llm")

    def _resume(self) -> None:
        path, started = self.home / "state.pt", self.home / "llm" / "model.safetensors"
        if not path.exists():
            if started.exists():
                # Somebody put weights here that no training of this folder wrote: it goes on from them.
                self._start_from(started)
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step, self.seen, self.elapsed = state["counts"]
        log.info("resumed at step %d after %.1f min", self.step, self.elapsed / 60)

    def _start_from(self, weights: Path) -> None:
        try:
            self.network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        except (RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{weights} can't be gone on from: it is damaged or of other sizes than the plan's; move it away."
            ) from error
        log.info("starts from the weights in %s", weights.parent)

    def _batches(self) -> Iterator[list[Example]]:
        while True:
            if self.chats.refresh():
                log.info("training on %s", ", ".join(self.chats.directions))
            batches = list(batched(list(self.chats.draw(POOL)), self.plan.batch_ids))
            yield from (batches[place] for place in self.rng.permutation(len(batches)))

    def _learn(self, batch: Sequence[Example], share: float) -> float:
        factor = rate(share, self.step, self.plan)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * factor
        ids, targets = self._tensors(batch, self.plan.noise)
        loss = self.network.losses(ids, targets, self.choices).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.seen += sum(len(example.ids) for example in batch)
        return float(loss.detach())

    def _tensors(self, batch: Sequence[Example], noise: float) -> tuple[Tensor, Tensor]:
        """Inputs and targets [batch, time]; targets are IGNORED where nothing is learned."""
        time_ = max(len(example.ids) for example in batch)
        ids = np.zeros((len(batch), time_), np.int64)
        targets = np.full((len(batch), time_), IGNORED, np.int64)
        for row, example in enumerate(batch):
            ids[row, : len(example.ids)] = example.ids
            targets[row, : len(example.ids) - 1] = np.where(example.counted, example.ids, IGNORED)[1:]
        if noise:
            ids = noisy(ids, self.vocabulary, noise, self.rng)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(targets).to(self.device)


def batched(examples: list[Example], batch_ids: int) -> Iterator[list[Example]]:
    """Examples of like length together, at most `batch_ids` ids a batch after padding."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if batch and len(example.ids) * (len(batch) + 1) > batch_ids:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def rate(share: float, step: int, plan: Plan) -> float:
    """The learning rate's factor after `share` of the time: warm-up by steps, level, then a cosine to `last_share`."""
    warm = min(1.0, (step + 1) / plan.warm_up)
    late = max(0.0, min(1.0, (share - plan.decay_from) / (1 - plan.decay_from)))
    return warm * (plan.last_share + (1 - plan.last_share) * 0.5 * (1 + math.cos(math.pi * late)))


def optimisers(network: TrainingLlama, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest; each group remembers its full rate."""
    layers = dict(network.model.layers.named_parameters())
    matrices = [parameter for parameter in layers.values() if parameter.ndim == 2]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    muon = Muon(matrices, lr=plan.matrix_rate, weight_decay=0.05)
    groups = [
        {"params": [network.model.embed_tokens.weight], "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=plan.other_rate, betas=(0.9, 0.95), fused=True)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["full_rate"] = group["lr"]
    return [muon, adam]


def tokenizer(work: Path) -> Vocabulary:
    """The vocabulary in `work`/language/tokenizer, trained first where there is none."""
    folder = work / "language" / "tokenizer"
    if not (folder / "tokenizer.model").exists():
        pictures = json.loads((work / "image" / "images.json").read_text("utf-8"))
        tunes = json.loads((work / "music" / "clips.json").read_text("utf-8"))
        write_tokenizer(folder, train_pieces(corpus(pictures, tunes)), CODES)
    return Vocabulary.from_folder(folder)


def export(shape: Shape, state: dict[str, Tensor], tokenizer_folder: Path, target: Path) -> None:
    """Write a model folder in the published layout, 16-bit weights; `target` is replaced in one move."""
    from transformers import GenerationConfig, LlamaForCausalLM

    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    model = LlamaForCausalLM(shape.config())
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=True)
    model.to(torch.float16).save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)
    settings = json.loads((fresh / "generation_config.json").read_text("utf-8"))
    (fresh / "generation_config.json").write_text(json.dumps({**settings, "sampling": DRAWN}, indent=2) + "\n")
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, fresh / file.name)
    replace_folder(fresh, target)


def replace_folder(fresh: Path, target: Path) -> None:
    """Put `fresh` where `target` is; whoever opens `target` sees the old folder or the new one, whole."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage "language": trains for `minutes` of processor time on all codes there are, writes language/llm."""
    LanguageTrainer(work, device, seed).fit(minutes)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Path(sys.argv[1]), float(sys.argv[2]), "cpu", 0)
