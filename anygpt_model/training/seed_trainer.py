"""Stage "image tokenizer": trains both halves of the pocket's SEED tokenizer, and writes every picture's codes.

What the language model draws with are the teacher's codes, which the eye nears; what it looks at are the eye's own, of
each picture seen in several ways. Knows no caption and no diffusion.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..codecs.seed import SeedTokenizer, load_seed
from . import seed_eye_trainer, seed_hand_trainer
from .image_data import load
from .image_loop import command
from .image_teacher import teach
from .seed_eye_trainer import normalised, shrunk, views_of
from .seed_shape import hand_of

EYE_SHARE = 0.45
VIEWS = 5
"""Ways in which each picture is seen; the first is the picture as it is."""


def joined(eye: SeedTokenizer, hand: SeedTokenizer) -> SeedTokenizer:
    """`eye` with the hand of `hand`."""
    with torch.no_grad():
        for ours, theirs in zip(hand_of(eye), hand_of(hand), strict=True):
            for weight, trained in zip(ours, theirs, strict=True):
                weight.copy_(trained)
    return eye


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
def seen(work: Path, model: SeedTokenizer, device: str, seed: int) -> Tensor:
    """The codes [N, VIEWS, 32] of all pictures of stage "data", each as it is and then in other views."""
    torch.manual_seed(seed)
    pictures, alpha, _ = load(work)
    views = views_of(shrunk(pictures), shrunk(alpha[..., None]), VIEWS)
    codes = [model.encode(normalised(part.to(device))).cpu() for part in torch.split(views.flatten(0, 1), 256)]
    return torch.cat(codes).reshape(len(views), VIEWS, -1)


def write_codes(work: Path, codes: Tensor, name: str) -> None:
    """Write `work/image/{name}.npz` (`codes` int16 [N, 32]) and `{name}.json`: images.json's rows, with their codes."""
    rows = json.loads((work / "image" / "images.json").read_text())
    np.savez_compressed(work / "image" / f"{name}.npz", codes=codes.numpy().astype(np.int16))
    kept = ("row", "concept", "label", "phrase", "group", "style", "caption", "captions", "split")
    told = [{key: row[key] for key in kept} | {"codes": code} for row, code in zip(rows, codes.tolist(), strict=True)]
    (work / "image" / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False))


def write_views(work: Path, device: str, seed: int) -> None:
    """Write `work/image/own.*` and `work/image/views.npz`, as the 16-bit weights see: they are what ships."""
    codes = seen(work, load_seed(work / "image" / "seed", device), device, seed)
    write_codes(work, codes[:, 0], "own")
    fresh = work / "image" / "views.part"
    with fresh.open("wb") as out:
        np.savez_compressed(out, codes=codes.numpy().astype(np.int16))
    fresh.rename(work / "image" / "views.npz")


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the tokenizer, write it to `work/image/seed`, the teacher's codes to `tokens.*`, its own to `own.*`."""
    write_codes(work, teach(work).codes, "tokens")
    hand = seed_hand_trainer.train(work, minutes * (1 - EYE_SHARE), device, seed)
    eye = seed_eye_trainer.train(work, minutes * EYE_SHARE, device, seed)
    export(joined(eye, hand), work / "image" / "seed")
    write_views(work, device, seed)


if __name__ == "__main__":
    command(run, minutes=25)
