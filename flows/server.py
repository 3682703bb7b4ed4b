"""The Prefect server: one that somebody has set up must answer, a temporary one needs a disk with room. Starts none."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings

from ..anygpt_model.errors import SettingsError

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

log = logging.getLogger(__name__)

ROOM = 16 << 20
"""Bytes that a temporary server needs for its database; without them it is waited for in vain, for minutes."""


def check_server() -> None:
    """Raises SettingsError for a configured server that does not answer, and where a temporary one can't be."""
    address = PREFECT_API_URL.value()
    if not address:
        _check_room()
        return
    try:
        with get_client(sync_client=True) as client:
            answer = client.api_healthcheck()
    except Exception as error:
        # Whatever keeps a client from being made (a wrong URL, no route) is the address's fault to the operator.
        answer = error
    if answer is not None:
        raise SettingsError(
            f"The Prefect server at {address} does not answer; start it with `prefect server start`, "
            "correct PREFECT_API_URL, or unset it to convert without one."
        )


@contextmanager
def no_heartbeat() -> Iterator[None]:
    """Without Prefect's signs of life where the server is a temporary one: it ends with its flow, and nobody listens.

    The thread that sends them ends on a full second, and every run would wait for it.
    """
    if PREFECT_API_URL.value():
        yield
        return
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def start_server() -> None:
    """Start the temporary server, where none is configured, so that a terminal's interrupt does not reach it: the run
    that was interrupted has yet to say so, and would wait for an answer for minutes."""
    if not PREFECT_API_URL.value():
        from prefect.server.api.server import SubprocessASGIServer

        _start(SubprocessASGIServer())


@contextmanager
def shared_server() -> Iterator[None]:
    """Have worker processes report to this process's temporary server, where there is one: alone each would start its
    own, which takes seconds and knows nothing of the run."""
    server = _running()
    if PREFECT_API_URL.value() or server is None:
        yield
        return
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield


def revive_server() -> None:
    """Start the temporary server again, at its address, if it has ended: tasks would wait for it for ever."""
    server = _running()
    if server is not None and server.server_process is not None and server.server_process.poll() is not None:
        log.warning("the temporary Prefect server ended (code %s); it is started again", server.server_process.poll())
        server.running = False
        _start(server)


def _start(server: SubprocessASGIServer) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a new process begins with
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _running() -> SubprocessASGIServer | None:
    """This process's temporary server; its module takes seconds to import, and where it was not there is none."""
    module = sys.modules.get("prefect.server.api.server")
    server = None if module is None else module.SubprocessASGIServer()
    return server if server is not None and server.running else None


def _check_room() -> None:
    home = PREFECT_HOME.value()
    try:
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise SettingsError(f"Prefect's folder {home} can't be used ({error.strerror}); choose another.") from None
    if free < ROOM:
        raise SettingsError(f"{home} has {free >> 20} MB left on its disk, Prefect needs {ROOM >> 20}; free some.")
