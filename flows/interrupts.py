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
from functools import cache
from pathlib import Path

from ..anygpt_model.errors import Cancelled

_stopped = threading.Event()


@cache
def sign() -> Path:
    """The file that exists while the workers of this process are to stop. Not looked for before it is needed: on a full
    disk there is no folder for it."""
    return Path(tempfile.gettempdir()) / f"anyloom-{uuid.uuid4().hex}.interrupted"


def interrupted() -> bool:
    """Whether to stop."""
    return _stopped.is_set()


def let_go() -> Cancelled:
    """What is said of an item that the interrupt ended: it is neither done nor failed."""
    return Cancelled("Its run was interrupted; start it again.")


def stop() -> None:
    """Stop this process's shards."""
    _stopped.set()


@contextmanager
def stopping_on_interrupt(settle: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Stop the shards, here and in worker processes, when an interrupt ends the block: who waits for them would wait
    for all that they have claimed. settle: called then, to wait until they have stopped."""
    if interrupted():
        with suppress(OSError):
            sign().unlink(missing_ok=True)
        _stopped.clear()
    try:
        yield
    except Exception:
        raise
    except BaseException:
        stop()
        with suppress(OSError):  # where it can't be, the workers end with this process
            sign().touch()
            atexit.register(sign().unlink, missing_ok=True)
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
