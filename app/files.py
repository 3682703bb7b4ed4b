"""Files that commands read and write: inputs checked before anything is opened, outputs written whole or not at all.

File names come from turn ids, never from what a user or a model said.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..anygpt_model.errors import MediaError, SettingsError

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
}


def read_file(path: Path, largest: int) -> bytes:
    """The bytes of an input file of at most `largest` bytes. Raises MediaError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MediaError(f"{path} is not a file; give a picture or a sound.")
        if size == 0:
            raise MediaError(f"{path} is empty; give a picture or a sound.")
        if size > largest:
            raise MediaError(f"{path} has {size:,} bytes; at most {largest:,} are taken.")
        return path.read_bytes()
    except FileNotFoundError:
        raise MediaError(f"{path} does not exist; give the path of a picture or a sound.") from None
    except OSError as error:
        raise MediaError(f"{path} can't be read ({error.strerror}); check its permissions.") from None


def writable_folder(folder: Path) -> Path:
    """`folder`, made if need be and tried by writing into it. Raises SettingsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SettingsError(
            f"The folder {folder} can't be written to ({error.strerror}); choose another with --out."
        ) from None


def write_file(path: Path, data: bytes) -> Path:
    """Write `data` beside `path`, then rename: a reader sees the whole file or none. Raises SettingsError."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".anyloom-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise SettingsError(
            f"{path} can't be written ({error.strerror}); free some space or choose another folder."
        ) from None
    return path


def media_name(turn: str, number: int, mime: str) -> str:
    """The file name of a reply's medium: turn-<first 8 of its id>-<number>.png or .wav."""
    return f"turn-{turn[:8]}-{number}{SUFFIXES.get(mime, '.bin')}"
