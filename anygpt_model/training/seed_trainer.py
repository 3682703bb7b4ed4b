"""Stage "image tokenizer": trains the pocket's SEED tokenizer towards its teacher, and writes every picture's codes.

The encoder learns to reach the teacher's vectors from pixels (moved, scaled, tinted, on other grounds), the decoder
learns to tell the teacher's embedding from codes, its own and the teacher's with mistakes. The codebook is the
teacher's and stays. Knows no caption and no diffusion.
"""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ..codecs.seed import MEAN, STD, SeedConfig, SeedTokenizer, load_seed
from .image_data import load
from .image_loop import Budget, Run, batch_of, command, prepare
from .image_teacher import CODE_DIM, FEATURES, KINDS, MEANING, Teaching, teach

log = logging.getLogger(__name__)

CONFIG = SeedConfig(
    img_size=48,
    patch_size=8,
    vit_embed_dim=128,
    vit_depth=4,
    vit_heads=4,
    mlp_ratio=4.0,
    hidden_size=128,
    qformer_layers=3,
    qformer_heads=4,
    qformer_intermediate=512,
    cross_attention_freq=1,
    codebook_size=1024,
    codebook_dim=CODE_DIM,
    decode_depth=2,
    decode_heads=4,
    image_down=(128, 96, 32),
    image_features_dim=FEATURES,
)
BATCH = 48
PEAK = 1e-3
MISTAKE = 0.6
"""Largest deviation of the noise that the teacher's vectors get before the decoder sees their codes."""


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
    ground = torch.where(torch.rand(size, 1, 1, 1) < 0.25, torch.rand(size, 3, 1, 1), torch.ones(size, 3, 1, 1))
    x = pictures - (1 - alpha) * (1 - ground)
    x = (x - ground) * (1 + 0.2 * (torch.rand(size, 1, 1, 1) - 0.5)) + 0.06 * torch.randn(size, 3, 1, 1) * alpha
    scale, move = 1 + 0.2 * (torch.rand(size) - 0.4), 0.12 * (torch.rand(size, 2) - 0.5)
    theta = torch.zeros(size, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, move
    grid = F.affine_grid(theta, [size, 3, *x.shape[-2:]], align_corners=False)
    return (F.grid_sample(x, grid, padding_mode="zeros", align_corners=False) + ground).clamp(0, 1)


def started(model: SeedTokenizer) -> SeedTokenizer:
    """Random numbers where the network has zeros, and queries that already look at different places.

    With torch's own start each query sees the mean of all patches, and training stays there for long. Larger starts in
    `image_down`, whose ReLUs have no biases, silenced it: its embedding became a constant.
    """
    nn.init.normal_(model.query_tokens, std=0.5)
    nn.init.normal_(model.visual_encoder.pos_embed, std=1.0)
    nn.init.normal_(model.pos_embed_image, std=0.02)
    for layer in model.Qformer.bert.encoder.layer.children():
        looking: Any = layer.crossattention
        for part in (looking.self.query, looking.self.key):
            nn.init.normal_(part.weight, std=0.15)
        for part in (looking.self.value, looking.output.dense):
            nn.init.normal_(part.weight, std=0.09)
    return model


def losses(model: SeedTokenizer, seen: Tensor, teaching: Teaching, rows: Tensor) -> dict[str, Tensor]:
    """The terms of the loss for pictures [B, 3, S, S] in 0..1 of these rows."""
    table, device = model.quantize.embedding.weight, seen.device
    aim, embedding = teaching.vectors[rows].to(device), teaching.embeddings[rows].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        reached = model.project(normalised(seen)).float()
    reach = (reached - aim).square().sum(-1).mean() / 10
    if not model.distill_image_proj.weight.requires_grad:
        return {"reach": reach}
    near = aim + MISTAKE * torch.rand(len(aim), 1, 1, device=device) * torch.randn_like(aim)
    codes = model.quantize(torch.where(torch.rand(len(aim), 1, 1, device=device) < 0.5, near, reached.detach()))
    with torch.autocast(device.type, torch.bfloat16):
        told = model.embed(F.embedding(codes, table)).float()
    return {"reach": reach, "tell": (told - embedding).square().mean()}


def train(work: Path, minutes: float, device: str, seed: int) -> SeedTokenizer:
    """The tokenizer after `minutes` of training in all; continues from `work/image/tokenizer.pt`."""
    generator = prepare(device, seed)
    pictures, alpha, _ = load(work)
    pictures, alpha = shrunk(pictures), shrunk(alpha[..., None])[..., 0]
    teaching = teach(work)
    write_codes(work, teaching.codes, "targets")
    model = started(SeedTokenizer(CONFIG)).to(device)
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(teaching.codebook).requires_grad_(False)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, PEAK, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    job = Run(work / "image" / "tokenizer.pt", {"model": model}, optimizer, Budget(60 * minutes), PEAK)
    job.resume()
    for step in job.steps():
        if job.budget.progress >= 0.5:
            # The denoiser learns from the decoder's embeddings meanwhile, so they stay as they are.
            freeze_decoder(model)
        rows = teaching.train[torch.randint(len(teaching.train), (BATCH,), generator=generator)]
        cut = torch.from_numpy(alpha[rows.numpy()])[:, None].float() / 255
        plain = batch_of(pictures, rows)
        seen = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, plain, varied(plain, cut))
        terms = losses(model, seen.to(device), teaching, rows)
        optimizer.zero_grad()
        torch.autograd.backward(list(terms.values()))
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 50 == 0:
            told = " ".join(f"{name} {term.item():.3f}" for name, term in terms.items())
            log.info("%5d %3.0f%% %s", step, 100 * job.budget.progress, told)
        if step % 400 == 399:
            report(model, pictures, teaching, device)
    report(model, pictures, teaching, device)
    return model


def freeze_decoder(model: SeedTokenizer) -> None:
    """Keep everything between codes and embedding as it is."""
    model.pos_embed_image.requires_grad_(False)
    for part in (model.decode_task_layer, model.blocks_image, model.image_down, model.distill_image_proj):
        part.requires_grad_(False)


@torch.no_grad()
def report(model: SeedTokenizer, pictures: NDArray[np.uint8], teaching: Teaching, device: str) -> None:
    """Log how much of the teaching the codes keep, of pictures trained on and held out."""
    held = torch.ones(len(pictures), dtype=torch.bool)
    held[teaching.train] = False
    for name, rows in (("known", teaching.train[::28]), ("held out", held.nonzero()[:, 0][::4])):
        codes = model.encode(normalised(batch_of(pictures, rows)).to(device)).cpu()
        aims = teaching.embeddings[rows]
        miss = (model.decode(codes.to(device)).cpu() - aims).square().mean(0) / aims.var(0)
        ideal = (model.decode(teaching.codes[rows].to(device)).cpu() - aims).square().mean(0) / aims.var(0)
        equal = (codes == teaching.codes[rows]).float().mean(0)
        ends = [0, MEANING, MEANING + 4, MEANING + 36, FEATURES]
        parts = [slice(start, end) for start, end in pairwise(ends)]
        kept = " ".join(f"{1 - float(x[part].mean()):.2f}" for part in parts for x in (miss, ideal))
        hits = " ".join(f"{float(x.mean()):.2f}" for x in torch.split(equal, [kind.groups for kind in KINDS]))
        log.info(
            "%s: kept (own, ideal codes) %s; equal codes %s; used %d",
            name,
            kept,
            hits,
            len(set(codes.flatten().tolist())),
        )


def export(model: SeedTokenizer, folder: Path) -> None:
    """Write `folder` in the published layout, 16-bit."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous().cpu() for name, tensor in model.state_dict().items()}
    head = "visual_encoder."
    vit = {name.removeprefix(head): tensor for name, tensor in state.items() if name.startswith(head)}
    save_file(vit, folder / "eva_vit_g.safetensors")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    save_file(rest, folder / "seed_quantizer.safetensors")
    model.config.to_file(folder / "config.json")


@torch.no_grad()
def encode_all(work: Path, model: SeedTokenizer, device: str) -> Tensor:
    """The codes [N, 32] of all pictures of stage "data"."""
    pictures, _, _ = load(work)
    whole = batch_of(shrunk(pictures), torch.arange(len(pictures)))
    return torch.cat([model.encode(normalised(part).to(device)).cpu() for part in torch.split(whole, 64)])


def write_codes(work: Path, codes: Tensor, name: str) -> None:
    """Write `work/image/{name}.npz` (`codes` int16 [N, 32]) and `{name}.json`: images.json's rows, with their codes."""
    rows = json.loads((work / "image" / "images.json").read_text())
    np.savez_compressed(work / "image" / f"{name}.npz", codes=codes.numpy().astype(np.int16))
    kept = ("row", "concept", "label", "phrase", "group", "style", "caption", "captions", "split")
    told = [{key: row[key] for key in kept} | {"codes": code} for row, code in zip(rows, codes.tolist(), strict=True)]
    (work / "image" / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False))


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the image tokenizer, write it to `work/image/seed` and every picture's codes to `work/image/own.*`.

    `work/image/tokens.*`, what the language model learns from, are the teacher's codes, which the tokenizer nears.
    """
    export(train(work, minutes, device, seed), work / "image" / "seed")
    # The 16-bit weights are what ships, so the codes are theirs.
    write_codes(work, encode_all(work, load_seed(work / "image" / "seed", device), device), "own")
    write_codes(work, teach(work).codes, "tokens")


if __name__ == "__main__":
    command(run, minutes=10)
