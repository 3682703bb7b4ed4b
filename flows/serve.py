"""`anyloom flows serve`: the four flows as deployments of one process, scheduled by a Prefect server.

Each scheduled run is a process of its own, so it opens the model once a run.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import serve as serve_deployments

from ..anygpt_model.errors import SettingsError
from .convert import convert
from .evaluate import evaluate
from .reverify import reverify
from .tokenize import tokenize


def serve(cron: str | None = None, parameters: dict[str, Any] | None = None) -> None:
    """Serve the flows until stopped. cron: when `convert` runs, with `parameters`; None: only when asked for.

    Raises SettingsError without a server: a temporary one would end with this process and lose its schedule.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SettingsError(
            "Serving flows needs a Prefect server; run `prefect server start` and set PREFECT_API_URL to its address."
        )
    serve_deployments(*deployments(cron, parameters), pause_on_shutdown=False)


def deployments(cron: str | None = None, parameters: dict[str, Any] | None = None) -> list[Any]:
    """The deployments that `serve` runs."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    # One engine at a time: two runs on one machine would hold two models in memory.
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    # By module: our files import one another relatively, so a run can't load them by their paths.
    common: dict[str, Any] = {
        "tags": ["anyloom"],
        "concurrency_limit": one,
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    converted: Any = convert.to_deployment(name="convert", cron=cron, parameters=parameters or {}, **common)
    others: list[Any] = [each.to_deployment(name=each.name, **common) for each in (reverify, evaluate, tokenize)]
    return [converted, *others]
