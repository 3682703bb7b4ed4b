"""Where shards run, as a setting: threads of this process, processes of this machine, Dask's workers, or Ray's.

ANYLOOM_TASK_RUNNER says which, ANYLOOM_TASK_WORKERS how many at once, ANYLOOM_TASK_ADDRESS which cluster (without it
one is started on this machine, and ended with the flow). Knows no shard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..anygpt_model.errors import SettingsError
from .interrupts import sign
from .worker_process import share, start_worker

Named = Literal["threads", "processes", "dask", "ray"]


class RunnerSettings(BaseSettings):
    """Every field is an environment variable with ANYLOOM_TASK_ before it."""

    model_config = SettingsConfigDict(env_prefix="ANYLOOM_TASK_", extra="ignore")

    runner: Named = "threads"
    workers: int = Field(default=2, ge=1)
    """Shards at once: threads of one process, or worker processes with one shard each."""
    address: str | None = None
    """A running cluster's: tcp://… for Dask, ray://… for Ray."""


def runner_settings() -> RunnerSettings:
    """The settings of this process's environment. Raises SettingsError for a value that can't be read."""
    try:
        return RunnerSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "ANYLOOM_TASK_" + "_".join(map(str, first["loc"])).upper()
        raise SettingsError(f"{name} can't be used: {first['msg']}; correct it or unset it.") from None


def task_runner() -> Any:
    """The task runner that the settings ask for. Raises SettingsError where its package is missing."""
    chosen = runner_settings()
    try:
        return RUNNERS[chosen.runner](chosen)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The task runner {chosen.runner} needs {error.name}, which is not installed; "
            f"run: pip install 'anyloom[{chosen.runner}]'."
        ) from None


def on_this_machine() -> bool:
    """Whether all shards run on this machine, as far as is known."""
    chosen = runner_settings()
    return chosen.runner in ("threads", "processes") or chosen.address is None


def check_database(database: str) -> None:
    """Raises SettingsError for a database that is gone when its connection is, or that workers in other processes can't
    share."""
    chosen = runner_settings()
    kind, _, place = database.partition("://")
    if kind.startswith("sqlite") and place.strip("/") in ("", ":memory:"):
        raise SettingsError(
            f"A batch came with {database}, a database in memory, which each of its connections would have for itself; "
            "set ANYLOOM_DATABASE_URL to a file (sqlite:///…) or a PostgreSQL one, or unset it."
        )
    if chosen.runner in ("dask", "ray") and not kind.startswith("postgres"):
        raise SettingsError(
            f"The task runner {chosen.runner} came with {kind}, which processes of several machines can't share; "
            "set ANYLOOM_DATABASE_URL to a PostgreSQL one, or ANYLOOM_TASK_RUNNER=processes."
        )


def _threads(chosen: RunnerSettings) -> Any:
    from prefect.task_runners import ThreadPoolTaskRunner

    # Two shards at once: while the last replies of one are made, the next one keeps the engine's batch full.
    return ThreadPoolTaskRunner(max_workers=chosen.workers)


def _processes(chosen: RunnerSettings) -> Any:
    from prefect.task_runners import ProcessPoolTaskRunner

    return ProcessPoolTaskRunner(
        chosen.workers, initializer=start_worker, initargs=(share(chosen.workers), str(sign()))
    )


def _dask(chosen: RunnerSettings) -> Any:
    from prefect_dask import DaskTaskRunner

    if chosen.address is not None:
        return DaskTaskRunner(address=chosen.address)
    # One thread a worker: a shard makes its own, and two shards would share one engine's memory unawares.
    local = {"n_workers": chosen.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)


def _ray(chosen: RunnerSettings) -> Any:
    from prefect_ray import RayTaskRunner

    return RayTaskRunner(address=chosen.address, init_kwargs={} if chosen.address else {"num_cpus": chosen.workers})


RUNNERS: dict[Named, Callable[[RunnerSettings], Any]] = {
    "threads": _threads,
    "processes": _processes,
    "dask": _dask,
    "ray": _ray,
}
