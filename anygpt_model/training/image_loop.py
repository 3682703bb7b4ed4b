"""What the picture trainers share: a budget in core-minutes, its schedule, a checkpoint to resume from, contact sheets.

The budget counts the processor time of this process, so that a busy machine makes training slower and not worse. Knows
no network and no loss.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 90.0
WARM_UP = 0.03


@dataclass
class Budget:
    """Processor seconds to spend; `spent` carries what earlier runs of the same stage used."""

    seconds: float
    spent: float = 0.0
    step: int = 0

    def __post_init__(self) -> None:
        self._start = time.process_time() - self.spent

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        return min(1.0, (time.process_time() - self._start) / self.seconds)

    def rate(self, peak: float) -> float:
        """Learning rate now: linear warm-up, then cosine to 2 % of the peak."""
        done = self.progress
        if done < WARM_UP:
            return peak * max(0.02, done / WARM_UP)
        return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))))


@dataclass
class Run:
    """A stage in progress: what is trained, with what, and where it is kept; `parts` are saved and restored. The
    optimizers come with their peak rates."""

    path: Path
    parts: dict[str, nn.Module]
    optimizers: list[torch.optim.Optimizer]
    budget: Budget

    def __post_init__(self) -> None:
        self._full = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def resume(self) -> None:
        """Continue from the checkpoint if there is one; its processor time counts."""
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.budget = Budget(self.budget.seconds, spent=state["spent"], step=state["step"])
        log.info("resumed %s at step %d", self.path.name, self.budget.step)

    def learn(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, which is clipped to length 1."""
        loss.backward()  # type: ignore[no-untyped-call]
        weights = [weight for each in self.optimizers for group in each.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "spent": self.budget.progress * self.budget.seconds,
            "step": self.budget.step,
        }
        fresh = self.path.with_suffix(".part")
        torch.save(state, fresh)
        fresh.rename(self.path)

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is used; sets the rate before each, saves now and then and at the end."""
        saved = time.process_time()
        while self.budget.progress < 1:
            for optimizer, full in zip(self.optimizers, self._full, strict=True):
                for group, peak in zip(optimizer.param_groups, full, strict=True):
                    group["lr"] = self.budget.rate(peak)
            yield self.budget.step
            self.budget.step += 1
            if time.process_time() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.process_time()
        self.save()


class Average(nn.Module):
    """An exponential moving average of another network's parameters, kept in its own copy."""

    def __init__(self, copy: nn.Module, decay: float) -> None:
        super().__init__()
        self.net = copy.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Move towards `net`; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.net.parameters()), list(net.parameters()), 1 - decay)


def prepare(device: str, seed: int) -> torch.Generator:
    """Seed torch, pick the attention that is fastest to train on a CPU, and give a generator for batches."""
    torch.manual_seed(seed)
    if device == "cpu":
        torch.backends.cuda.enable_flash_sdp(False)
    return torch.Generator().manual_seed(seed)


def sheet(rows: list[Tensor], path: Path) -> None:
    """A contact sheet: each entry a row of pictures [N, 3, H, W] in 0..1, all of one size."""
    from PIL import Image

    grid = torch.cat([torch.cat(list(row.clamp(0, 1)), dim=2) for row in rows], dim=1)
    Image.fromarray((grid.permute(1, 2, 0).float().numpy() * 255).round().astype(np.uint8)).save(path)


def command(run: Callable[[Path, float, str, int], Any], minutes: float) -> None:
    """Run a stage from the command line."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run(given.work, given.minutes, given.device, given.seed)
