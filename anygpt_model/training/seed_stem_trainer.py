"""Trains the stem of the pocket's eye: convolutions that tell things apart whoever drew them.

There are about six pictures of each thing, so none comes as it is: moved, turned, tinted, faded, blurred, on coloured
ground, laid over another hand's picture of the same thing. What is learnt is one proxy a thing to be near to, which is
thrown away; the maps below it stay. Knows no codes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codecs.seed import MEAN, STD
from ..codecs.stem import Stem
from .image_data import load
from .image_hands import load_hands
from .image_loop import Average, Budget, Run, command, prepare
from .image_teacher import SEEN
from .seed_shape import WIDTHS

log = logging.getLogger(__name__)

BATCH = 128
PEAK = 3e-3
EMBEDDING = 160
SCALE = 16.0
SMOOTHING = 0.1
RANGE = 4.0
"""Pixels of 0..1 come as -RANGE / 2 to RANGE / 2."""


def shrunk(pictures: NDArray[np.uint8], side: int = SEEN) -> NDArray[np.uint8]:
    """Pictures [N, H, W, C] at `side` pixels a side, by averaging."""
    step = pictures.shape[1] // side
    blocks = pictures.reshape(len(pictures), side, step, side, step, -1)
    shrunken: NDArray[np.uint8] = blocks.mean(axis=(2, 4), dtype=np.float32).round().astype(np.uint8)
    return shrunken


def sometimes(size: int, share: float) -> Tensor:
    """1 for a `share` of the pictures, 0 for the others: [size, 1, 1, 1]."""
    return (torch.rand(size, 1, 1, 1) < share).float()


def moved(rgba: Tensor) -> Tensor:
    """Pictures [B, 4, S, S] shifted, scaled, turned and sheared; transparent where nothing is left."""
    size = len(rgba)
    turn, scale = 0.2 * torch.randn(size), 1 + 0.15 * torch.randn(size).clamp(-2, 2)
    theta = torch.zeros(size, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * turn.cos(), -scale * turn.sin() + 0.08 * torch.randn(size)
    theta[:, 1, 0], theta[:, 1, 1] = scale * turn.sin(), scale * turn.cos() * (1 + 0.1 * torch.randn(size))
    theta[:, :, 2] = 0.25 * (torch.rand(size, 2) - 0.5)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    return F.grid_sample(rgba, grid, padding_mode="zeros", align_corners=False)


def tinted(colours: Tensor, alpha: Tensor) -> Tensor:
    """Other colours of premultiplied pictures [B, 3, S, S]: mixed channels, faded, lighter or darker."""
    size = len(colours)
    mix = torch.eye(3) + 0.15 * torch.randn(size, 3, 3)
    x = torch.einsum("bij,bjhw->bihw", mix / mix.sum(2, keepdim=True), colours)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 - sometimes(size, 0.4) * torch.rand(size, 1, 1, 1))
    contrast, lift = 1 + 0.2 * torch.randn(size, 1, 1, 1), 0.1 * torch.randn(size, 1, 1, 1)
    return torch.minimum((x * contrast + lift * alpha).clamp(min=0), alpha)


def seen(first: Tensor, second: Tensor) -> Tensor:
    """What training sees of two pictures [B, 4, S, S] of the same things, premultiplied, in 0..1: [B, 3, S, S]."""
    size = len(first)
    share = sometimes(size, 0.25) * 0.6 * torch.rand(size, 1, 1, 1)
    both = moved(first + share * (second - first))
    colours, alpha = tinted(both[:, :3], both[:, 3:]), both[:, 3:]
    ground = torch.where(sometimes(size, 0.2) > 0, torch.rand(size, 3, 1, 1), torch.ones(()))
    x = colours + (1 - alpha) * ground
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return (x + sometimes(size, 0.3) * (blurred - x)).clamp(0, 1)


def viewed(rgba: Tensor) -> Tensor:
    """Pictures [B, 4, S, S] a little moved, lighter or darker, a few on coloured ground: [B, 3, S, S]."""
    size = len(rgba)
    theta = torch.zeros(size, 2, 3)
    scale = 1 + 0.16 * (torch.rand(size) - 0.5)
    theta[:, 0, 0], theta[:, 1, 1] = scale, scale * (1 + 0.04 * torch.randn(size))
    theta[:, 0, 1], theta[:, 1, 0] = 0.04 * torch.randn(size), 0.04 * torch.randn(size)
    theta[:, :, 2] = 0.08 * (torch.rand(size, 2) - 0.5)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    x = F.grid_sample(rgba, grid, padding_mode="zeros", align_corners=False)
    lift = 0.05 * torch.randn(size, 3, 1, 1) * x[:, 3:]
    ground = torch.where(sometimes(size, 0.1) > 0, torch.rand(size, 3, 1, 1), torch.ones(()))
    return ((x[:, :3] * (1 + 0.1 * torch.randn(size, 1, 1, 1)) + lift) + (1 - x[:, 3:]) * ground).clamp(0, 1)


def premultiplied(pictures: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Tensor:
    """Pictures on white [N, H, W, 3] with alpha [N, H, W] as uint8 [N, 4, SEEN, SEEN] without the white."""
    white, cover = shrunk(pictures).astype(np.int16), shrunk(alpha[..., None]).astype(np.int16)
    colours = (white - (255 - cover)).clip(0, 255)
    return torch.from_numpy(np.concatenate([colours, cover], axis=-1).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


class Learner(nn.Module):
    """The stem with what is only there to train it: normalisation, an embedding, a proxy for each thing."""

    def __init__(self, things: int) -> None:
        super().__init__()
        self.stem = Stem(WIDTHS, norm=True)
        left = (SEEN >> len(WIDTHS)) ** 2 * WIDTHS[-1]
        self.embed = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(left, EMBEDDING))
        self.proxies = nn.Parameter(torch.randn(things, EMBEDDING) / math.sqrt(EMBEDDING))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] in 0..1 -> likeness to each thing [B, things]."""
        found = F.normalize(self.embed(self.stem.convolved(RANGE * (pixels - 0.5))), dim=1)
        return SCALE * found @ F.normalize(self.proxies, dim=1).T


class Cards:
    """Pictures to learn from, uint8 [n, 4, SEEN, SEEN], and their things [n]; others of known things that are held out.

    count: how many things there are."""

    def __init__(self, work: Path) -> None:
        ours, our_alpha, rows = load(work)
        hands, hand_alpha, of_thing = load_hands(work)
        numbers = {row["concept"]: 0 for row in rows if row["split"] == "train"}
        numbers = {name: number for number, name in enumerate(numbers)}
        thing = torch.tensor([numbers.get(row["concept"], -1) for row in rows])
        theirs = thing[torch.from_numpy(of_thing)]
        split = np.array([row["split"] for row in rows])
        train = torch.from_numpy(split == "train")
        pair = torch.from_numpy(split == "pair") & (thing >= 0)
        drawn, by_hands = premultiplied(ours, our_alpha), premultiplied(hands, hand_alpha)
        self.count = len(numbers)
        self.pictures = torch.cat([drawn[train], by_hands[theirs >= 0]])
        self.things = torch.cat([thing[train], theirs[theirs >= 0]])
        self.held, self.held_things = drawn[pair], thing[pair]
        self._of: dict[int, list[int]] = {}
        for row, number in enumerate(self.things.tolist()):
            self._of.setdefault(number, []).append(row)

    def draw(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches without end, each picture once before any comes again: pictures, others of the same things, these."""
        order = torch.empty(0, dtype=torch.long)
        while True:
            if len(order) < BATCH:
                order = torch.randperm(len(self.things), generator=generator)
            rows, order = order[:BATCH], order[BATCH:]
            things = self.things[rows]
            picks = torch.randint(1 << 30, (BATCH,), generator=generator).tolist()
            alike = [self._of[thing] for thing in things.tolist()]
            others = [each[pick % len(each)] for each, pick in zip(alike, picks, strict=True)]
            yield self.pictures[rows].float() / 255, self.pictures[others].float() / 255, things


def train(work: Path, minutes: float, device: str, seed: int) -> Stem:
    """A stem that has had `minutes` of training in all, normalisation folded in; goes on from `work/image/stem.pt`."""
    generator = prepare(device, seed)
    cards = Cards(work)
    model = Learner(cards.count).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(Learner(cards.count).to(device), decay=0.995)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=0.05, fused=True)
    job = Run(work / "image" / "stem.pt", {"model": model, "average": average}, [optimizer], Budget(60 * minutes))
    job.resume()
    for step, (first, second, things) in zip(job.steps(), cards.draw(generator), strict=False):
        pixels = seen(first, second).to(device).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model.train()(pixels), things.to(device), label_smoothing=SMOOTHING)
        job.learn(loss)
        average.update(model, step)
        if step % 250 == 249:
            found = recognised(settled(average, model), cards, device)
            log.info("%5d %3.0f%% loss %.3f, recognised %.3f", step, 100 * job.budget.progress, loss.item(), found)
    return folded(settled(average, model).stem)


@torch.no_grad()
def folded(stem: Stem) -> Stem:
    """The same function without normalisation, of pixels as the tokenizer takes them (but for the padding's colour)."""
    plain = Stem(stem.widths)
    for ours, norm, theirs in zip(stem.convolutions, stem.norms, plain.convolutions, strict=True):
        assert isinstance(ours, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        theirs.load_state_dict(nn.utils.fuse_conv_bn_eval(ours.eval(), norm.eval()).state_dict())
    first = plain.convolutions[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.bias += (first.weight * (RANGE * (torch.tensor(MEAN) - 0.5))[:, None, None]).sum((1, 2, 3))
    first.weight *= (RANGE * torch.tensor(STD))[:, None, None]
    return plain.requires_grad_(False)


def settled(average: Average, model: nn.Module) -> Learner:
    """The averaged network with the other's running statistics."""
    for ours, theirs in zip(average.net.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)
    assert isinstance(average.net, Learner)
    return average.net.eval()


@torch.no_grad()
def recognised(model: Learner, cards: Cards, device: str) -> float:
    """Share of the held-out pictures whose thing is the likeliest."""
    x = cards.held.float() / 255
    likely = [model(part.to(device)).argmax(1).cpu() for part in torch.split(x[:, :3] + 1 - x[:, 3:], 256)]
    return float((torch.cat(likely) == cards.held_things).float().mean())


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the stem for `minutes` of processor time in all."""
    train(work, minutes, device, seed)


if __name__ == "__main__":
    command(run, minutes=10.5)
