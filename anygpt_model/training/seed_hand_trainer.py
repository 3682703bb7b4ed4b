"""Trains the hand of the pocket's SEED tokenizer: from 32 codes to the image embedding.

Whoever writes codes errs, in the looks more than in the thing: so it sees the teacher's codes with some of them taken
from other pictures, and learns the embedding of the right one all the same. Knows no pixels but through the teacher.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.seed import SeedTokenizer
from .image_data import load
from .image_loop import Budget, Run, command, prepare
from .image_teacher import FEATURES, KINDS, MEANING, Teaching, teach
from .seed_shape import fresh, hand_of, optimizers

log = logging.getLogger(__name__)

BATCH = 192
CLEAN = 0.3
"""Share of pictures whose codes come without a mistake."""
THING = KINDS[0].groups
WRONG_THING = 0.25
"""How often, at most, a code of the thing is wrong, beside one of the looks."""


def mistaken(codes: Tensor, siblings: Tensor, others: Tensor) -> Tensor:
    """Codes [B, 32] with a share, drawn for each picture, taken from the same thing in another style or from any other
    picture, [B, 32] each."""
    wrong = torch.rand(len(codes), 1) * (torch.rand(len(codes), 1) >= CLEAN)
    share = wrong.expand(-1, codes.shape[1]).clone()
    share[:, :THING] *= WRONG_THING
    share[:, THING] *= WRONG_THING
    near = torch.rand(len(codes), 1) < 0.5
    return torch.where(torch.rand(codes.shape) < share, torch.where(near, siblings, others), codes)


def sibling_of(concepts: list[str], train: Tensor, generator: torch.Generator) -> Tensor:
    """For each row another training row of the same thing, [N]; itself where there is none."""
    found = torch.arange(len(concepts))
    by_thing: dict[str, list[int]] = {}
    for row in train.tolist():
        by_thing.setdefault(concepts[row], []).append(row)
    for rows in by_thing.values():
        turn = int(torch.randint(1, max(2, len(rows)), (1,), generator=generator))
        found[rows] = torch.tensor(rows[turn:] + rows[:turn])
    return found


def train(work: Path, minutes: float, device: str, seed: int) -> SeedTokenizer:
    """A tokenizer whose hand has had `minutes` of training in all; continues from `work/image/hand.pt`."""
    generator = prepare(device, seed)
    teaching = teach(work)
    concepts = [row["concept"] for row in load(work)[2]]
    model = fresh(teaching).to(device)
    learning = [weight for part in hand_of(model) for weight in part]
    job = Run(work / "image" / "hand.pt", {"model": model}, optimizers(learning), Budget(60 * minutes))
    job.resume()
    table, known = model.quantize.embedding.weight, teaching.train
    for step in job.steps():
        if step % 100 == 0:
            siblings = sibling_of(concepts, known, generator)
        rows, others = (known[torch.randint(len(known), (BATCH,), generator=generator)] for _ in range(2))
        codes = mistaken(teaching.codes[rows], teaching.codes[siblings[rows]], teaching.codes[others]).to(device)
        with torch.autocast(device, torch.bfloat16):
            told = model.embed(F.embedding(codes, table)).float()
        loss = (told - teaching.embeddings[rows].to(device)).square().mean()
        job.learn(loss)
        if step % 100 == 0:
            log.info("%5d %3.0f%% %.4f", step, 100 * job.budget.progress, loss.item())
        if step % 1000 == 999:
            report(model, teaching, device)
    report(model, teaching, device)
    return model


@torch.no_grad()
def report(model: SeedTokenizer, teaching: Teaching, device: str) -> None:
    """Log how much of the embedding (thing, style, coarse looks, fine looks) the teacher's codes keep."""
    held = torch.ones(len(teaching.codes), dtype=torch.bool)
    held[teaching.train] = False
    for name, rows in (("known", teaching.train[::20]), ("held out", held.nonzero()[:, 0])):
        aims = teaching.embeddings[rows]
        miss = (model.decode(teaching.codes[rows].to(device)).cpu() - aims).square().mean(0) / aims.var(0)
        ends = [0, MEANING, MEANING + 4, MEANING + 36, FEATURES]
        kept = " ".join(f"{1 - float(miss[start:end].mean()):.2f}" for start, end in pairwise(ends))
        log.info("%s: kept %s", name, kept)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the hand for `minutes` of processor time in all."""
    train(work, minutes, device, seed)


if __name__ == "__main__":
    command(run, minutes=12)
