"""`anyloom finetune`: a model of one's own from one's own pairs. The work is anygpt_model.training.fine_tuning's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .console import Screen


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option("--out", "target", type=click.Path(path_type=Path), required=True, help="The model folder to write.")
@click.option("--model", default="pocket", show_default=True, help="What to start from: a model's name or folder.")
@click.option("--lora", "rank", type=click.IntRange(min=1), help="Train matrices of this rank beside the weights.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Times each chat is seen. [default: 3]")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Peak learning rate.")
@click.option("--settings", type=click.Path(path_type=Path), help="A JSON file of these and finer settings.")
@click.option("--device", help="cpu, cuda … [default: a GPU if there is one]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def finetune(
    pairs: Path,
    target: Path,
    model: str,
    rank: int | None,
    epochs: float | None,
    rate: float | None,
    settings: Path | None,
    device: str | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Teach a model PAIRS: a JSONL file of chats, or a folder of NAME.png or NAME.wav beside NAME.txt.

    Every weight of the language model learns, or with --lora small matrices beside them; the codecs stay. A tenth of
    the chats is held out, and their loss is told before and after. Then: anyloom say --model OUT.
    """
    from ..anygpt_model.training.dials import Dials
    from ..anygpt_model.training.fine_tuning import fine_tune
    from ..anygpt_model.training.pairs import read_pairs

    given: dict[str, Any] = {"rank": rank, "epochs": epochs, "rate": rate, "seed": seed}
    dials = Dials.from_file(settings) if settings else Dials()
    dials = replace(dials, **{name: value for name, value in given.items() if value is not None})
    logging.getLogger("anyloom").setLevel(logging.INFO)
    outcome = fine_tune(read_pairs(pairs), model, target, dials, device)
    screen = Screen(quiet=as_json)
    told = "nothing was held out"
    if outcome.before is not None and outcome.after is not None:
        told = f"held-out loss {outcome.before:.2f} -> {outcome.after:.2f}"
    screen.line(f"{outcome.folder}: {outcome.chats} chats, {outcome.steps} steps, {told}")
    if as_json:
        fields = ("before", "after", "steps", "chats")
        screen.json({"folder": str(outcome.folder), **{name: getattr(outcome, name) for name in fields}})
