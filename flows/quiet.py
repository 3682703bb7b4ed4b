"""Prefect offline and quiet unless the operator has set it up: no telemetry, no chatter, a home of its own.

Whatever the environment or a Prefect profile says already stays as it is. Imports no Prefect.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

OWNER = "ANYLOOM_FLOW_OWNER"
"""Environment variable by which a temporary server says whose it is: its flow's process id and start time."""
SERVER = b"prefect.server.api.server:create_app"
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # What we log inside a run goes to its page, and nowhere outside of one.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "anyloom",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_WIKI_LINKS": "false",
    # A loaded machine takes long to start the temporary server; waiting is better than failing.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
PROCESSES = Path("/proc")


def settle() -> None:
    """Fill in the settings that nobody has given."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ours = logging.getLogger("anyloom")
    if ours.level == logging.NOTSET:
        ours.setLevel(getattr(logging, os.environ["PREFECT_LOGGING_LEVEL"].upper(), logging.WARNING))
    if not _configured():
        from ..graphs.settings import settings

        home = settings().home.expanduser().absolute() / "prefect"
        os.environ["PREFECT_HOME"] = str(home)
        # While a loaded machine starts the temporary server, the connection for events fails and is tried again.
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
        # Prefect makes its home but not the folders above it; one that can't be made is told when it is needed.
        with suppress(OSError):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[OWNER] = mark(os.getpid())


def sweep() -> list[int]:
    """End temporary servers whose flow was killed and could not end them itself; returns their process ids.

    Only processes that carry our mark and whose owner is gone. Does nothing where /proc does not exist.
    """
    left = [process for process in _marked() if not alive(_owner(process))]
    for process in left:
        _end(process, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while any(map(_running, left)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in filter(_running, left):
        _end(process, signal.SIGKILL)
    return left


def _configured() -> bool:
    """Whether somebody has set Prefect up on this machine or in this environment."""
    named = any(os.environ.get(name) for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE"))
    return named or (Path.home() / ".prefect" / "profiles.toml").exists()


def _marked() -> list[int]:
    found = []
    for entry in PROCESSES.glob("[0-9]*"):
        process = int(entry.name)
        if process != os.getpid() and SERVER in _read(process, "cmdline") and _owner(process):
            found.append(process)
    return found


def _owner(process: int) -> str:
    mark = f"{OWNER}=".encode()
    lines = _read(process, "environ").split(b"\0")
    return next((line[len(mark) :].decode() for line in lines if line.startswith(mark)), "")


def mark(process: int) -> str:
    """A process by its id and start time, in ticks: an id is used again, the pair is not."""
    return f"{process}:{_started(process)}"


def alive(marked: str) -> bool:
    """Whether the process of a mark still runs."""
    process, _, started = marked.partition(":")
    return process.isdigit() and _started(int(process)) == started


def _started(process: int) -> str:
    """When a process started, in ticks; "" for none."""
    fields = _read(process, "stat").rpartition(b")")[2].split()
    return fields[19].decode() if len(fields) > 19 and fields[0] != b"Z" else ""


def _running(process: int) -> bool:
    return bool(_started(process))


def _read(process: int, name: str) -> bytes:
    try:
        return (PROCESSES / str(process) / name).read_bytes()
    except OSError:
        return b""


def _end(process: int, how: signal.Signals) -> None:
    try:
        os.kill(process, how)
    except (ProcessLookupError, PermissionError):
        return
