"""Stage "shipped": puts the shipped pocket's parts where the recipe's trainers would write them, and codes the data.

So nobody has to repeat hours first: the language model and the speech codec go on from what ships, the other trainers
find the codes that they need. What is already in the work folder stays. Knows no network.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from torch import Tensor

from ..codecs.seed import load_seed
from ..errors import InputError
from . import music_trainer, seed_trainer, speech_tokens
from .image_teacher import THING, Teaching, teach
from .language_tokenizer import FILES
from .stages import PARTS, SHIPPED

log = logging.getLogger(__name__)

DATA = ("image/images.json", "music/clips.json", "speech/audio")
"""What the stage "data" leaves."""


def lay_out(work: Path, shipped: Path = SHIPPED) -> None:
    """Copies each part that `work` has not; the language model's tokenizer too, where its trainer looks for it."""
    for place, part in PARTS.items():
        if not (work / place).exists():
            shutil.copytree(shipped / part, work / place)
            log.info("%s is the shipped one", place)
    tokenizer = work / "language" / "tokenizer"
    if not tokenizer.exists():
        tokenizer.mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(shipped / "llm" / name, tokenizer / name)


def drawn(teaching: Teaching, views: Tensor) -> Tensor:
    """The codes to draw each picture with [N, 32], as the tokenizer has them that saw `views` [N, VIEWS, 32].

    Which two codes are whose is clustered, and another machine's rounding clusters a quarter of the things otherwise;
    what the tokenizer says most often of a thing's trained pictures is what it was written with.
    """
    codes = teaching.drawing.clone()
    learnt = torch.zeros(len(codes), dtype=torch.bool)
    learnt[teaching.train] = True
    for thing in range(len(teaching.things)):
        own = teaching.thing == thing
        told = views[own & learnt, :, :THING].flatten(0, 1)
        if len(told):
            pairs, often = torch.unique(told, dim=0, return_counts=True)
            codes[own, :THING] = pairs[often.argmax()].to(codes.dtype)
    return codes


def code(work: Path, device: str, seed: int) -> None:
    """Writes the codes of pictures, tunes and readings that are not coded yet."""
    if not (work / "image" / "views.npz").exists():
        teaching = teach(work)
        views = seed_trainer.seen(work, load_seed(work / "image" / "seed", device), device, seed)
        seed_trainer.write_codes(work, drawn(teaching, views), "tokens")
        seed_trainer.write_views(work, views)
    if not (work / "music" / "tokens.json").exists():
        music_trainer.write_tokens(work)
    if not (work / "speech" / "tokens.json").exists():
        speech_tokens.write_tokens(work)


def run(work: Path, minutes: float, device: str, seed: int) -> None:
    """The stage; it takes some minutes whatever `minutes` says. Raises InputError without the stage "data"."""
    for name in DATA:
        if not (work / name).exists():
            raise InputError(f"{work / name} is not there; run `anyloom train data --work {work}` first.")
    torch.set_num_threads(1)
    lay_out(work)
    code(work, device, seed)
