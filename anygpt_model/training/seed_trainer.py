"""Stage "image tokenizer": trains the stem of the pocket's SEED tokenizer, writes down the rest, and every picture's
codes.

What the language model draws with are the teacher's drawing codes; what it looks at are the eye's own, of each picture
seen in several ways. Knows no caption and no diffusion.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ..codecs.seed import SeedTokenizer, load_seed
from . import seed_stem_trainer
from .image_data import load
from .image_hands import load_hands
from .image_loop import command, prepare
from .image_teacher import STYLE, THING, Teaching, as_taken, teach
from .seed_stem_trainer import premultiplied, viewed
from .seed_writer import normalised, written

log = logging.getLogger(__name__)

VIEWS = 5
"""Ways in which each picture is seen; the first is the picture as it is."""
LEARNT = 3
"""Ways in which each picture is seen when what tells things apart is written down."""


def views_of(pictures: NDArray[np.uint8], alpha: NDArray[np.uint8], count: int) -> Tensor:
    """Pictures [N, H, W, 3] with alpha [N, H, W], seen as they are and in other views: [N, count, 3, S, S]."""
    cards = premultiplied(pictures, alpha)
    parts = [torch.stack([viewed(part.float() / 255) for _ in range(count - 1)], 1) for part in torch.split(cards, 256)]
    return torch.cat([as_taken(pictures)[:, None], torch.cat(parts)], 1)


def export(model: SeedTokenizer, folder: Path) -> None:
    """Write `folder` in the published layout, 16-bit; what decides between prototypes to a hair stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"prototypes.keys.bias"}
    state = {
        name: (tensor if name in whole else tensor.half()).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    head = "visual_encoder."
    vit = {name.removeprefix(head): tensor for name, tensor in state.items() if name.startswith(head)}
    save_file(vit, folder / "eva_vit_g.safetensors")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    save_file(rest, folder / "seed_quantizer.safetensors")
    model.config.to_file(folder / "config.json")


def recognising(work: Path, teaching: Teaching) -> tuple[Tensor, Tensor, Tensor]:
    """What the eye learns to recognise: views [n, 3, S, S], their things [n] and styles [n], -1 for other hands'."""
    ours, our_alpha, _ = load(work)
    hands, hand_alpha, of_thing = load_hands(work)
    theirs = teaching.thing[torch.from_numpy(of_thing)]
    known = theirs >= 0
    train = teaching.train.numpy()
    views = torch.cat(
        [
            views_of(ours[train], our_alpha[train], LEARNT),
            views_of(hands[known.numpy()], hand_alpha[known.numpy()], LEARNT),
        ]
    )
    thing = torch.cat([teaching.thing[teaching.train], theirs[known]])
    style = torch.cat([teaching.style[teaching.train], torch.full((int(known.sum()),), -1)])
    return views.flatten(0, 1), thing.repeat_interleave(LEARNT), style.repeat_interleave(LEARNT)


@torch.no_grad()
def seen(work: Path, model: SeedTokenizer, device: str, seed: int) -> Tensor:
    """The codes [N, VIEWS, 32] of all pictures of stage "data", each as it is and then in other views."""
    torch.manual_seed(seed)
    pictures, alpha, _ = load(work)
    views = views_of(pictures, alpha, VIEWS)
    codes = [model.encode(normalised(part).to(device)).cpu() for part in torch.split(views.flatten(0, 1), 256)]
    return torch.cat(codes).reshape(len(views), VIEWS, -1)


def write_codes(work: Path, codes: Tensor, name: str) -> None:
    """Write `work/image/{name}.npz` (`codes` int16 [N, 32]) and `{name}.json`: images.json's rows, with their codes."""
    rows = json.loads((work / "image" / "images.json").read_text())
    np.savez_compressed(work / "image" / f"{name}.npz", codes=codes.numpy().astype(np.int16))
    kept = ("row", "concept", "label", "phrase", "group", "style", "caption", "captions", "split")
    told = [{key: row[key] for key in kept} | {"codes": code} for row, code in zip(rows, codes.tolist(), strict=True)]
    (work / "image" / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False))


def write_views(work: Path, codes: Tensor) -> None:
    """Write `work/image/own.*` and `work/image/views.npz`: what the eye makes of pictures, codes [N, VIEWS, 32]."""
    write_codes(work, codes[:, 0], "own")
    fresh = work / "image" / "views.part"
    with fresh.open("wb") as out:
        np.savez_compressed(out, codes=codes.numpy().astype(np.int16))
    fresh.rename(work / "image" / "views.npz")


def report(work: Path, teaching: Teaching, codes: Tensor) -> None:
    """Log how many pictures, trained on and held out, get the codes of their thing and of their style."""
    splits = [row["split"] for row in load(work)[2]]
    for name in ("train", "pair"):
        rows = torch.tensor([row for row, split in enumerate(splits) if split == name and teaching.thing[row] >= 0])
        right = codes[rows] == teaching.drawing[rows, None]
        for kind, part in (("as they are", right[:, 0]), ("in other views", right[:, 1:].flatten(0, 1))):
            thing, style = part[:, :THING].all(1).float().mean(), part[:, THING : THING + STYLE.groups].float().mean()
            still = part[:, THING + STYLE.groups :].float().mean()
            log.info(
                "%s, %s: %d, thing %.3f, style %.3f, no difference %.2f", name, kind, len(part), thing, style, still
            )


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """Train the stem, write the tokenizer to `work/image/seed`, the codes to draw with to `tokens.*`, its own to
    `own.*` and `views.npz`, as the 16-bit weights see: they are what ships."""
    teaching = teach(work)
    write_codes(work, teaching.drawing, "tokens")
    stem = seed_stem_trainer.train(work, minutes, device, seed)
    prepare(device, seed)
    export(written(teaching, stem.cpu(), *recognising(work, teaching)), work / "image" / "seed")
    codes = seen(work, load_seed(work / "image" / "seed", device), device, seed)
    write_views(work, codes)
    report(work, teaching, codes)


if __name__ == "__main__":
    command(run, minutes=12)
