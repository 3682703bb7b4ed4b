"""The flow `evaluate`: the pocket's judges as a scheduled run, with its table as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Completed

from ..anygpt_model.errors import AnyloomError
from ..anygpt_model.training.report import Report


class NotAboveChance(AnyloomError):
    """A direction of the model does no better than shuffled prompts."""


@task(name="judges", cache_policy=NO_CACHE, persist_result=False)
def measure(work: str, model: str, limit: int) -> Report:
    """Every direction, asked and judged; needs the recipe's data under `work` and the packages of anyloom[train]."""
    from ..anygpt_model.training.evaluate import measure as measured

    return measured(Path(work), model, limit)


@flow(name="evaluate", flow_run_name="evaluate {model}", persist_result=False)
def evaluate(work: str = ".train", model: str = "pocket", limit: int = 100, strict: bool = False) -> Any:
    """Judge a model on held-out data.

    Args:
        work: The folder with the recipe's data.
        model: A model's name or folder.
        limit: Cases of each direction.
        strict: The run fails if a direction is not above chance.
    """
    return judged(measure(work, model, limit), strict)


def judged(report: Report, strict: bool) -> Any:
    """The run's end state, its table shown. Raises NotAboveChance if `strict`."""
    if FlowRunContext.get() is not None:
        create_markdown_artifact(markdown=report.to_markdown(), key="evaluation", description=report.model)
    # A direction has several measures; it works if one of them is beyond doubt.
    works = {row.direction: False for row in report.rows}
    for row in report.rows:
        works[row.direction] |= bool(row.above_chance)
    missed = [direction for direction, above in works.items() if not above]
    if missed and strict:
        raise NotAboveChance(f"Not above chance: {', '.join(missed)}.")
    return Completed(message=f"{len(works) - len(missed)} of {len(works)} directions are above chance")
