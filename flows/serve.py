"""`anyloom flows serve`: the four flows as deployments of one process, scheduled by a Prefect server.

Each scheduled run is a process of its own, so it opens the model once a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prefect import serve as serve_deployments

from ..anygpt_model.errors import SettingsError
from ..nodes.options import bounds
from ..nodes.state import Context
from .convert import convert
from .evaluate import evaluate
from .reverify import reverify
from .server import check_server
from .tokenize import tokenize


def serve(cron: str | None = None, parameters: dict[str, Any] | None = None) -> None:
    """Serve the flows until stopped. cron: when `convert` runs, with `parameters`; None: only when asked for.

    Raises SettingsError without a server: a temporary one would end with this process and lose its schedule; for a
    cron line that can't be read, and one without a source, a modality and a destination to go with it.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SettingsError(
            "Serving flows needs a Prefect server; run `prefect server start` and set PREFECT_API_URL to its address."
        )
    offered = deployments(cron, parameters)
    check_server()
    serve_deployments(*offered, pause_on_shutdown=False)


def deployments(cron: str | None = None, parameters: dict[str, Any] | None = None) -> list[Any]:
    """The deployments that `serve` runs."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    given = parameters or {}
    if cron is not None:
        _check(cron, given)
    # One engine at a time: two runs on one machine would hold two models in memory.
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    # By module: our files import one another relatively, so a run can't load them by their paths.
    common: dict[str, Any] = {
        "tags": ["anyloom"],
        "concurrency_limit": one,
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    converted: Any = convert.to_deployment(name="convert", cron=cron, parameters=given, **common)
    others: list[Any] = [each.to_deployment(name=each.name, **common) for each in (reverify, evaluate, tokenize)]
    return [converted, *others]


def _check(cron: str, given: Mapping[str, Any]) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise SettingsError(f'The cron line {cron!r} can\'t be read; write one like "0 3 * * *".') from None
    if missing := [name for name in ("source", "to", "out") if not given.get(name)]:
        raise SettingsError(f"A scheduled convert needs --{' and --'.join(missing)} as well.")
    bounds(Context(to=given["to"]))
