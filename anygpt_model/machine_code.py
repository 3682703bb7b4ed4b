"""C files of this package as machine code: built by the machine's own compiler, kept in the user's cache.

Where no compiler is found, or it fails, `library` says so in the log and returns None: what the code does is then done
without it. Building takes about a second, once a file; ANYLOOM_COMPILED=0 does without. Knows not what the code does.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_FLAGS = ("-O3", "-march=native", "-pthread", "-fPIC")
_TIME_LIMIT = 120
"""Seconds that a compiler may take."""
_log = logging.getLogger(__name__)


def wanted() -> bool:
    """Whether the user wants machine code."""
    return os.environ.get("ANYLOOM_COMPILED", "1") != "0"


def library(source: str, flags: Sequence[str], without: str) -> ctypes.CDLL | None:
    """The code of the file `source` of this folder, built with `flags` beside our own unless the cache has it.

    None where that can't be done; the log then has the reason. without: what that means.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if compiler is None:
        _log.info("No C compiler is here: %s; install gcc for faster replies.", without)
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, Path(__file__).with_name(source), (*_FLAGS, *flags))))
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("%s can't be built (%s): %s.", source, error, without)
        return None


def _built(compiler: str, source: Path, flags: Sequence[str]) -> Path:
    """The library's file; its name tells source, flags, compiler and processor, so that a change of one builds anew."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_TIME_LIMIT).stdout
    about = (source.read_bytes(), " ".join(flags).encode(), version, _processor())
    target = _folder() / f"{source.stem}-{hashlib.sha256(b'|'.join(about)).hexdigest()[:20]}.so"
    if not target.is_file():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            part, whole = Path(room) / "part.o", Path(room) / "whole.so"
            link = ["-shared", str(part), "-o", str(whole), "-pthread", "-lm"]
            for command in ([*flags, "-c", str(source), "-o", str(part)], link):
                subprocess.run([compiler, *command], capture_output=True, check=True, timeout=_TIME_LIMIT)
            whole.replace(target)
        _log.info("Built %s in %.1f s, once for this machine.", source.name, time.perf_counter() - started)
    return target


def _folder() -> Path:
    """Where built code is kept: the user's own cache, readable by nobody else; a folder of this process without one."""
    from platformdirs import user_cache_path

    folder = user_cache_path("anyloom", appauthor=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="anyloom-"))


def _processor() -> bytes:
    """What the code was built for, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n")
    except OSError:
        return b""
    return b"".join(line for line in lines[:40] if line.startswith((b"flags", b"Features", b"model")))
