"""`anyloom train`: the pocket model's recipe, one stage a call. The work is anygpt_model.training's."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from ..anygpt_model.errors import SettingsError, UnknownName
from .console import Screen

STAGES = ("data", "image", "speech", "music", "language", "evaluate")
"""In the order in which they need each other; `all` runs every one."""


@click.command()
@click.argument("stage", metavar="STAGE")
@click.option(
    "--work", type=click.Path(path_type=Path), default=".train", show_default=True, help="Data and checkpoints."
)
@click.option("--minutes", type=float, help="How long each stage may train; it goes on from where it stopped.")
@click.option("--device", help="cpu, cuda … [default: a GPU if there is one]")
@click.option("--seed", type=int, default=0, show_default=True)
def train(stage: str, work: Path, minutes: float | None, device: str | None, seed: int) -> None:
    """Run STAGE of the recipe: data, image, speech, music, language, evaluate, or all."""
    if stage not in (*STAGES, "all"):
        raise UnknownName(f"There is no stage named {stage!r}; use one of {', '.join(STAGES)}, all.")
    screen = Screen()
    for name in STAGES if stage == "all" else (stage,):
        screen.remark(f"train {name}")
        try:
            recipe = import_module(f"..anygpt_model.training.{name}", __package__)
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"The stage {name} needs {error.name}, which is not installed; run: pip install 'anyloom[train]'."
            ) from None
        recipe.run(work=work, minutes=minutes, device=device, seed=seed)
