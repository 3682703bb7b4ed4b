"""Whether the run that this process works for was interrupted: its shards begin nothing more, and what is under way is
let go. Knows no shard and no Prefect.

Worker processes are told by a file, since an interrupt may reach their parent alone.
"""

from __future__ import annotations

import atexit
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIGN = Path(tempfile.gettempdir()) / f"anyloom-{uuid.uuid4().hex}.interrupted"
"""Exists while the workers of this process are to stop."""
_stopped = threading.Event()


def interrupted() -> bool:
    """Whether to stop."""
    return _stopped.is_set()


def stop() -> None:
    """Stop this process's shards."""
    _stopped.set()


@contextmanager
def stopping_on_interrupt(settle: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Stop the shards, here and in worker processes, when an interrupt ends the block: who waits for them would wait
    for all that they have claimed. settle: called then, to wait until they have stopped."""
    _stopped.clear()
    SIGN.unlink(missing_ok=True)
    try:
        yield
    except Exception:
        raise
    except BaseException:
        stop()
        atexit.register(SIGN.unlink, missing_ok=True)
        with suppress(OSError):  # on a full disk the workers end with this process
            SIGN.touch()
        settle()
        raise


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """SIGTERM as SystemExit (code 143) for the length of the block, so that what was started is ended: a process that
    it ends by default leaves its temporary server behind. Whoever handles the signal already goes on doing so."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)
