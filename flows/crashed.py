"""Runs whose process was killed: Prefect goes on calling them Running, so the next start says what became of them.

Each run is labelled with its machine and process; a label of this machine whose process is gone is a crash. Runs of
other machines are left alone. A server that can't be asked never fails the work. Knows no ledger.
"""

from __future__ import annotations

import logging
import os
import socket

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.states import Crashed

from .quiet import alive, mark

log = logging.getLogger(__name__)

LABEL = "anyloom.process"
PAGE = 200
TOLD = "Its process was killed; what it had not done was left to the next run."


def tell_crashed() -> list[str]:
    """Label this run with its process, and mark those Crashed whose process is gone; their names.

    Outside a flow run there is nothing to tell.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    try:
        return _told(context.flow_run)
    except Exception as error:
        # Prefect's pages are a view of the work; whatever keeps them from being right, the work goes on.
        log.warning("earlier runs could not be looked through: %s", error)
        return []


def _told(own: FlowRun) -> list[str]:
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    told = []
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(own.id, {LABEL: label(os.getpid())})
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running), limit=PAGE):
            if run.id != own.id and gone(str(run.labels.get(LABEL, ""))):
                client.set_flow_run_state(run.id, Crashed(message=TOLD), force=True)
                told.append(run.name)
    if told:
        log.warning("runs whose process was killed are Crashed now: %s", ", ".join(told))
    return told


def label(process: int) -> str:
    """A process of this machine, so that it can be told from a later one of the same number."""
    return f"{socket.gethostname()}:{mark(process)}"


def gone(labelled: str) -> bool:
    """Whether a label names a process of this machine that no longer runs."""
    host, _, process = labelled.partition(":")
    return host == socket.gethostname() and bool(process) and not alive(process)
