"""How a worker process of the runner `processes` starts: its share of the cores, and an end with whoever started it.

Knows no shard. Imports no tensor library: what is set here must be so before that is loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

from .interrupts import stop

LOOK = 0.1
"""Seconds between two looks at the parent."""


def start_worker(threads: int, sign: str) -> None:
    """Compute with so many threads, stop when the file `sign` appears, and end when the parent is gone.

    A parent that was killed ends nobody: its workers would wait for work for ever.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says what to do
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent, Path(sign)), name="parent", daemon=True).start()


def share(workers: int) -> int:
    """The cores of this process, shared by `workers`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def _follow(parent: multiprocessing.process.BaseProcess, sign: Path) -> None:
    while parent.is_alive():
        if sign.exists():
            stop()
        parent.join(LOOK)
    # At once: what is in the store is whole, and what is not is done again by the next run.
    os._exit(1)
