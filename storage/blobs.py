"""Media bytes as content-addressed files: `ab/abcd….`, named by nothing but their SHA-256.

Knows no database. On a local disk a file is written beside its place, synced, then renamed, so that it is whole or not
there; object stores put whole objects by themselves. Any fsspec URL serves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..anygpt_model.errors import SettingsError, StoreError

HASH = re.compile(r"sha256:([0-9a-f]{64})\Z")
LEFTOVER = re.compile(r"(?P<host>[^~]*)~(?P<process>\d+)~[0-9a-f]+\.tmp\Z")
INCOMING = "incoming"
BROKEN = "broken"
OWNER = "owner"


def hash_of(data: bytes) -> str:
    """ "sha256:<hex>" of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Leftover:
    """A temporary file that a killed or a running process left. age: seconds."""

    path: str
    age: float
    writer_alive: bool


class BlobFiles:
    """The folder of blobs at a path or an fsspec URL. Raises SettingsError for a URL that nothing can open."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._files, root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"The blob folder {url!r} can't be opened ({error}); use a path or an fsspec URL."
            ) from error
        self._root = str(root).rstrip("/")
        self._local = type(self._files).__name__ == "LocalFileSystem"

    def claim(self, store: str) -> None:
        """Mark the folder as the one of the store with that identity. Raises StoreError if it is another's.

        What one store does not know would be an orphan to its doctor, so two stores never share a folder.
        """
        marker = f"{self._root}/{OWNER}"
        try:
            owner = self._files.cat_file(marker).decode().strip()
        except FileNotFoundError:
            self._write(marker, f"{store}\n".encode())
            return
        except OSError as error:
            raise StoreError(f"The blob folder {self.url} can't be read ({error.strerror or error}).") from error
        if owner != store:
            raise StoreError(
                f"The blob folder {self.url} belongs to another store; give each store a folder of its own."
            )

    def write(self, data: bytes) -> str:
        """Keep `data` and return its hash; it is on disk before this returns. Raises StoreError."""
        name = hash_of(data)
        if not self.has(name):
            self._write(self._path(name), data)
        return name

    def _write(self, path: str, data: bytes) -> None:
        try:
            if self._local:
                self._write_local(Path(path), data)
            else:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(path, data)
        except OSError as error:
            raise StoreError(
                f"A medium of {len(data)} bytes could not be written to {self.url} ({error.strerror or error}); "
                "check its free space and permissions."
            ) from error

    def _write_local(self, path: Path, data: bytes) -> None:
        incoming = Path(self._root, INCOMING)
        incoming.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = incoming / f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)

    def read(self, name: str) -> bytes:
        """The bytes. Raises StoreError if they are missing or are not those of their hash."""
        try:
            data: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError as error:
            raise StoreError(f"The medium {name} is missing from {self.url}; run `anyloom doctor`.") from error
        except OSError as error:
            raise StoreError(f"The medium {name} can't be read from {self.url} ({error}); check the disk.") from error
        if hash_of(data) != name:
            raise StoreError(f"The medium {name} in {self.url} no longer matches its hash; run `anyloom doctor`.")
        return data

    def has(self, name: str) -> bool:
        """Whether there is a file for that hash."""
        return bool(self._files.exists(self._path(name)))

    def remove(self, name: str) -> None:
        """Drop the file of that hash, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def set_aside(self, name: str) -> None:
        """Move a file that does not match its hash out of the way, where a person may still look at it."""
        target = f"{self._root}/{BROKEN}/{name.removeprefix('sha256:')}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.mv(self._path(name), target)

    def names(self) -> Iterator[tuple[str, float]]:
        """The hash and age (seconds) of every file."""
        for path, info in self._find(""):
            name = "sha256:" + path.rpartition("/")[2]
            if HASH.match(name) and path == self._path(name):
                yield name, _age(info)

    def leftovers(self) -> Iterator[Leftover]:
        """Temporary files."""
        for path, info in self._find(INCOMING):
            found = LEFTOVER.search(path.rpartition("/")[2])
            here = bool(found) and found["host"] == socket.gethostname() if found else False
            alive = not here or _is_alive(int(found["process"]) if found else 0)
            yield Leftover(path, _age(info), alive)

    def remove_leftover(self, leftover: Leftover) -> None:
        """Drop a temporary file, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(leftover.path)

    def clear(self) -> None:
        """Drop everything, for a store in memory that is closed."""
        if self._files.exists(self._root):
            self._files.rm(self._root, recursive=True)

    def _find(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        root = f"{self._root}/{folder}".rstrip("/")
        if not self._files.exists(root):
            return []
        self._files.invalidate_cache()
        return sorted(self._files.find(root, detail=True).items())

    def _path(self, name: str) -> str:
        found = HASH.match(name)
        if not found:
            raise StoreError(f"{name!r} is not the hash of a medium; one is sha256: and 64 hexadecimal digits.")
        return f"{self._root}/{found[1][:2]}/{found[1]}"


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _age(info: dict[str, Any]) -> float:
    when = info.get("mtime") or info.get("created") or info.get("LastModified") or 0.0
    seconds = when.timestamp() if hasattr(when, "timestamp") else float(when)
    return max(0.0, time.time() - seconds)
