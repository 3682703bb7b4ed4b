"""Trains the eye of the pocket's SEED tokenizer: from pixels to the vectors that are quantised.

Its first layer is written down: discriminants, which tell things apart whatever hand drew them, and principal
components, which tell their looks. What follows learns to reach the teacher's vectors, and to come nearer to the
meaning of its thing than to that of any other, since a vector between two things finds the codes of neither. The
codebook is the teacher's and stays. Knows nothing of what is made of codes.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..codecs.seed import MEAN, STD, SeedTokenizer
from .image_data import load
from .image_hands import load_hands
from .image_loop import Budget, Run, batch_of, command, prepare
from .image_teacher import KINDS, Teaching, teach
from .seed_shape import CONFIG, eye_of, fresh, optimizers

log = logging.getLogger(__name__)

BATCH = 256
VIEWS = 8
"""Ways in which each picture is seen in training; the first is the picture as it is."""
COMPONENTS, DISCRIMINANTS, RIDGE = 400, 112, 0.3
"""Principal components among which discriminants are sought, how many of these, and how much their noise is evened."""
SHARPNESS = 0.07


def shrunk(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures [N, H, W, C] at the side that the tokenizer sees, by averaging."""
    step = pictures.shape[1] // CONFIG.img_size
    blocks = pictures.reshape(len(pictures), CONFIG.img_size, step, CONFIG.img_size, step, -1)
    shrunken: NDArray[np.uint8] = blocks.mean(axis=(2, 4), dtype=np.float32).round().astype(np.uint8)
    return shrunken


def normalised(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> what the ViT takes."""
    mean, std = (torch.tensor(x, device=pictures.device)[:, None, None] for x in (MEAN, STD))
    return (pictures - mean) / std


def varied(pictures: Tensor, alpha: Tensor) -> Tensor:
    """Other views of pictures [B, 3, H, W] with alpha [B, 1, H, W]: moved, scaled, tinted, some on coloured ground."""
    size = len(pictures)
    ground = torch.where(torch.rand(size, 1, 1, 1) < 0.1, torch.rand(size, 3, 1, 1), torch.ones(size, 3, 1, 1))
    x = pictures - (1 - alpha) * (1 - ground)
    x = (x - ground) * (1 + 0.2 * (torch.rand(size, 1, 1, 1) - 0.5)) + 0.06 * torch.randn(size, 3, 1, 1) * alpha
    scale, move = 1 + 0.16 * (torch.rand(size) - 0.5), 0.1 * (torch.rand(size, 2) - 0.5)
    theta = torch.zeros(size, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale * (1 + 0.06 * torch.randn(size)), move
    theta[:, 0, 1], theta[:, 1, 0] = 0.05 * torch.randn(size), 0.05 * torch.randn(size)
    grid = F.affine_grid(theta, [size, 3, *x.shape[-2:]], align_corners=False)
    return (F.grid_sample(x, grid, padding_mode="zeros", align_corners=False) + ground).clamp(0, 1)


def views_of(pictures: NDArray[np.uint8], alpha: NDArray[np.uint8], count: int) -> Tensor:
    """Pictures [N, S, S, 3] with alpha [N, S, S, 1], seen as they are and in other views: [N, count, 3, S, S]."""
    found = []
    for rows in torch.split(torch.arange(len(pictures)), 256):
        whole, cut = batch_of(pictures, rows), torch.from_numpy(alpha[rows.numpy()]).permute(0, 3, 1, 2).float() / 255
        found.append(torch.stack([whole, *(varied(whole, cut) for _ in range(count - 1))], dim=1))
    return torch.cat(found)


class Things:
    """Which thing each picture shows, and what the things that may be trained on mean, [things, MEANING]."""

    def __init__(self, concepts: list[str], teaching: Teaching) -> None:
        first = {concepts[row]: row for row in reversed(teaching.train.tolist())}
        numbers = {concept: number for number, concept in enumerate(first)}
        self.number = torch.tensor([numbers.get(concept, -1) for concept in concepts])
        self.meanings = meaning_of(teaching.vectors[list(first.values())])


def meaning_of(vectors: Tensor) -> Tensor:
    """The meaning [B, MEANING] in vectors [B, 32, CODE_DIM]."""
    return vectors[:, : KINDS[0].groups, : KINDS[0].width].flatten(1)


def discriminants(points: Tensor, names: Tensor) -> Tensor:
    """Fisher's axes [D, DISCRIMINANTS] of points [N, D]: where things differ most against how one thing varies."""
    count = int(names.max()) + 1
    sizes = torch.bincount(names, minlength=count).clamp(min=1)[:, None]
    middles = torch.zeros(count, points.shape[1]).index_add_(0, names, points) / sizes
    within = points - middles[names]
    spread = within.T @ within / len(within)
    spread += RIDGE * spread.diagonal().mean() * torch.eye(len(spread))
    whiten: Tensor = torch.linalg.cholesky(torch.linalg.inv(spread))
    among = (middles - middles.mean(0)) @ whiten
    axes: Tensor = torch.linalg.eigh(among.T @ among)[1].flip(1)
    return whiten @ axes[:, :DISCRIMINANTS]


@torch.no_grad()
def write_first_layer(model: SeedTokenizer, pictures: Tensor, names: Tensor) -> None:
    """Set the patch embedding from pictures [N, 3, S, S] in 0..1 of the things `names` [N]: discriminants, then
    components, each coordinate of deviation 1."""
    points = normalised(pictures).flatten(1)
    middle = points.mean(0)
    centred = points - middle
    _, axes = torch.linalg.eigh(centred.T @ centred)
    basis = axes.flip(1)[:, :COMPONENTS]
    telling = basis @ discriminants(centred @ basis, names)
    rows = torch.cat([telling, basis[:, : CONFIG.vit_embed_dim - DISCRIMINANTS]], dim=1).T
    rows /= (centred @ rows.T).std(0)[:, None]
    layer = model.visual_encoder.patch_embed.proj
    layer.weight.copy_(rows.reshape(layer.weight.shape))
    assert layer.bias is not None
    layer.bias.copy_(-rows @ middle)


def reached_from(model: SeedTokenizer, patches: Tensor) -> Tensor:
    """What is quantised, [B, 32, CODE_DIM], from the patch embedding [B, 1, D]: `SeedTokenizer.project` behind it."""
    vit = model.visual_encoder
    x = torch.cat([vit.cls_token.expand(len(patches), -1, -1), patches], dim=1) + vit.pos_embed
    for block in vit.blocks:
        x = block(x)
    seen = model.Qformer.bert(model.query_tokens.expand(len(x), -1, -1), model.ln_vision(x))
    return model.encode_task_layer(seen)  # type: ignore[no-any-return]


def losses(
    reached: Tensor, sharpness: Tensor, aims: Tensor, styled: Tensor, names: Tensor, meanings: Tensor
) -> dict[str, Tensor]:
    """The terms of the loss; styled [B]: 1 where the style is to be reached."""
    miss = (reached - aims).square().sum(-1)
    weight = torch.ones_like(miss)
    weight[:, KINDS[0].groups] = styled
    apart = torch.cdist(meaning_of(reached), meanings).square()
    return {"reach": (miss * weight).mean() / 10, "named": F.cross_entropy(-sharpness.abs() * apart, names)}


@torch.no_grad()
def embedded(model: SeedTokenizer, views: Tensor, device: str) -> Tensor:
    """The patch embeddings [N, V, D] of views [N, V, 3, S, S]."""
    parts = torch.split(views.flatten(0, 1), 1024)
    found = [model.visual_encoder.patch_embed(normalised(part.to(device))).cpu() for part in parts]
    return torch.cat(found).reshape(*views.shape[:2], -1)


def train(work: Path, minutes: float, device: str, seed: int) -> SeedTokenizer:
    """A tokenizer whose eye has had `minutes` of training in all; continues from `work/image/eye.pt`."""
    generator = prepare(device, seed)
    ours, our_alpha, rows = load(work)
    hands, hand_alpha, of_thing = load_hands(work)
    pictures = shrunk(np.concatenate([ours, hands]))
    views = views_of(pictures, shrunk(np.concatenate([our_alpha, hand_alpha])[..., None]), VIEWS)
    teaching = teach(work)
    concepts = [row["concept"] for row in rows]
    things = Things(concepts + [concepts[row] for row in of_thing], teaching)
    known = torch.cat([teaching.train, torch.arange(len(ours), len(pictures))])
    known = known[things.number[known] >= 0]
    model = fresh(teaching).to(device)
    write_first_layer(model, views[known, 0], things.number[known])
    tokens, aims = embedded(model, views, device), torch.cat([teaching.vectors, teaching.hands])
    meanings = things.meanings.to(device)
    sharpness = nn.Parameter(torch.tensor(SHARPNESS, device=device))
    learning = [weight for part in eye_of(model) for weight in part]
    job = Run(work / "image" / "eye.pt", {"model": model}, optimizers([*learning, sharpness]), Budget(60 * minutes))
    job.resume()
    for step in job.steps():
        picked = known[torch.randint(len(known), (BATCH,), generator=generator)]
        view = torch.randint(VIEWS, (BATCH,), generator=generator)
        with torch.autocast(device, torch.bfloat16):
            reached = reached_from(model, tokens[picked, view].to(device)[:, None]).float()
        styled, names = (picked < len(ours)).float().to(device), things.number[picked].to(device)
        terms = losses(reached, sharpness, aims[picked].to(device), styled, names, meanings)
        job.learn(terms["reach"] + terms["named"])
        if step % 50 == 0:
            told = " ".join(f"{name} {term.item():.3f}" for name, term in terms.items())
            log.info("%5d %3.0f%% %s", step, 100 * job.budget.progress, told)
        if step % 300 == 299:
            report(model, tokens[: len(ours), 0], teaching, things, device)
    report(model, tokens[: len(ours), 0], teaching, things, device)
    return model


@torch.no_grad()
def report(model: SeedTokenizer, tokens: Tensor, teaching: Teaching, things: Things, device: str) -> None:
    """Log how well pictures trained on and held out (of known things) are recognised, and how many codes are equal."""
    held = torch.ones(len(tokens), dtype=torch.bool)
    held[teaching.train] = False
    held &= things.number[: len(tokens)] >= 0
    for name, rows in (("known", teaching.train[::20]), ("held out", held.nonzero()[:, 0])):
        reached = reached_from(model, tokens[rows].to(device)[:, None]).cpu()
        first = (torch.cdist(meaning_of(reached), things.meanings).argmin(1) == things.number[rows]).float().mean()
        codes = model.quantize(reached.to(device)).cpu()
        # What a reader of codes can know: the meaning of the codebook's vectors.
        by_codes = torch.cdist(meaning_of(teaching.codebook[codes]), things.meanings).argmin(1)
        ends = [0, *np.cumsum([kind.groups for kind in KINDS])]
        hits = (codes == teaching.codes[rows]).float()
        equal = " ".join(f"{float(hits[:, start:end].mean()):.2f}" for start, end in pairwise(ends))
        share = (by_codes == things.number[rows]).float().mean()
        log.info("%s: recognised %.3f, from codes %.3f; equal codes %s", name, first, share, equal)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the eye for `minutes` of processor time in all."""
    train(work, minutes, device, seed)


if __name__ == "__main__":
    command(run, minutes=10)
