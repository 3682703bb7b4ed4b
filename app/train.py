"""`anyloom train`: the pocket model's recipe, one stage a call. The work is anygpt_model.training's."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from ..anygpt_model.errors import SettingsError, UnknownName
from .console import Screen

STAGES = ("data", "image", "speech", "music", "language", "evaluate")
"""In the order in which they need each other; `all` runs every one."""
SHIPPED = "shipped"
"""Instead of image, speech and music: what ships, so that the language model goes on from it."""


@click.command()
@click.argument("stage", metavar="STAGE")
@click.option(
    "--work", type=click.Path(path_type=Path), default=".train", show_default=True, help="Data and checkpoints."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Processor time of each stage; it goes on from where it stopped.",
)
@click.option("--device", help="cpu, cuda … [default: a GPU if there is one]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--sizes", type=click.Path(path_type=Path), help="A JSON file of sizes by part [default: the pocket's]")
@click.option("--model", help="evaluate: a model's name or folder [default: WORK/pocket if it is there, else pocket]")
@click.option("--limit", type=click.IntRange(min=1), help="evaluate: cases of each direction [default: 100]")
def train(
    stage: str,
    work: Path,
    minutes: float | None,
    device: str | None,
    seed: int,
    sizes: Path | None,
    model: str | None,
    limit: int | None,
) -> None:
    """Run STAGE of the recipe: data, image, speech, music, language, evaluate, or all.

    "shipped", after data, puts the shipped pocket's parts into WORK where it has none and codes the data with them, so
    that the language model and the speech codec go on from what ships.
    What is trained is put together as a model folder in WORK/pocket: say --model .train/pocket tries it.
    """
    if stage not in (*STAGES, SHIPPED, "all"):
        raise UnknownName(f"There is no stage named {stage!r}; use one of {', '.join(STAGES)}, {SHIPPED}, all.")
    _make(work)
    if sizes is not None:
        from ..anygpt_model.training.sizes import keep

        keep(work, sizes)
    logging.getLogger("anyloom").setLevel(logging.INFO)
    screen = Screen()
    for name in STAGES if stage == "all" else (stage,):
        screen.remark(f"train {name}")
        try:
            _run(name, work, minutes, device, seed, model, limit)
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"The stage {name} needs {error.name}, which is not installed; run: pip install 'anyloom[train]'."
            ) from None


def _make(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"The folder {work} can't be made ({error.strerror}); choose another --work.") from None


def _run(
    stage: str, work: Path, minutes: float | None, device: str | None, seed: int, model: str | None, limit: int | None
) -> None:
    from ..anygpt_model.training import stages

    if stage == "evaluate":
        from ..anygpt_model.training import evaluate

        trained = work / "pocket"
        chosen = model or (str(trained) if trained.is_dir() else "pocket")
        evaluate.run(work, device=device, model=chosen, limit=limit or evaluate.LIMIT)
        return
    import torch

    stages.run_stage(stage, work, minutes, device or ("cuda" if torch.cuda.is_available() else "cpu"), seed)
