"""Names -> model folders in the published layout, safe loading of their weights, fingerprints.

One layout serves the embedded pocket, published weights and anyone's own folder. Weights are opened from safetensors
only; a pickle is named and refused. Knows no network's forward pass and no hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CheckpointError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = ("anygpt-chat", "anygpt-base")
POCKET = "pocket"
LANGUAGE = "llm"
PARTS: dict[str, tuple[str, ...]] = {
    "llm": ("llm",),
    "tokenizer": ("llm",),
    "image": ("seed", "unclip"),
    "speech": ("speechtokenizer", "soundstorm"),
    "music": ("encodec",),
}
"""Part -> the subfolders of a model's folder that make it up."""
PICKLED = (".bin", ".pt", ".pth", ".dev", ".ckpt", ".pkl")
_TOKENIZER = ("tokenizer.model", "added_tokens.json")
_COUNTED = (".json", ".safetensors", ".model", ".txt")


def home() -> Path:
    """The user's data folder: ANYLOOM_HOME, or the platform's."""
    if named := os.environ.get("ANYLOOM_HOME"):
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("anyloom", appauthor=False)


def model_folder(name: str | Path) -> Path:
    """The folder of "pocket", "anygpt-chat", "anygpt-base", or of a path. Raises UnknownName where there is none."""
    if name == POCKET:
        folder = Path(__file__).parent / "pocket"
        if not (folder / LANGUAGE).is_dir():
            raise CheckpointError(f"The embedded pocket has no weights in {folder}; install the package again.")
        return folder
    if name in PUBLISHED:
        folder = home() / "models" / str(name)
        if not folder.is_dir():
            raise UnknownName(f"The model {name} isn't on this machine; get it by `anyloom models fetch {name}`.")
        return folder
    if isinstance(name, str | Path) and str(name) and (folder := Path(name).expanduser()).is_dir():
        return folder
    known = ", ".join((POCKET, *PUBLISHED))
    raise UnknownName(f"There is no model named {str(name)!r}; use one of {known}, or the path of a model's folder.")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a folder's model.safetensors or sharded index, on the CPU.

    Raises CheckpointError for a missing, pickled, truncated or otherwise unreadable file.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path) if path.is_dir() else [path]:
        tensors |= _load(file)
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a folder's model. Raises CheckpointError where there are none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / Path(name).name for name in sorted(set(names))]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        _exists(file)
    return files


def _exists(file: Path) -> None:
    if file.is_file():
        return
    pickles = sorted(path.name for path in file.parent.glob("*") if path.suffix in PICKLED)
    if pickles:
        raise CheckpointError(
            f"{file} is missing and {pickles[0]} beside it is a pickle, which is never opened here; "
            f"convert it once by `anyloom models check {file.parent.parent}`."
        )
    raise CheckpointError(f"{file} is missing; fetch the checkpoint again.")


def _load(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix in PICKLED:
        raise CheckpointError(
            f"{file} is a pickle, which is never opened here; convert it to safetensors once by "
            f"`anyloom models check {file.parent.parent}`."
        )
    _exists(file)
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({error}); fetch the checkpoint again.") from error


def safe_shapes(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shape of each tensor of a safetensors file, and its dtype ("F32", "BF16" …), from the header alone.

    Raises CheckpointError as `load_tensors` does.
    """
    from safetensors import SafetensorError, safe_open

    _exists(file)
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
            return shapes, {name: str(found.get_dtype()) for name, found in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({error}); fetch the checkpoint again.") from error


def fingerprints(folder: Path) -> dict[str, str]:
    """Part -> "sha256:…" over the names and contents of its files, for the parts that the folder has."""
    found = {}
    for part, names in PARTS.items():
        files = sorted(file for name in names for file in _counted(folder / name, part))
        if files:
            found[part] = _combined(folder, files)
    return found


def _counted(folder: Path, part: str) -> list[Path]:
    """The files of one subfolder that decide what a part computes."""
    files = [file for file in folder.rglob("*") if file.suffix in _COUNTED and file.is_file()]
    if part == "tokenizer":
        return [file for file in files if file.name in _TOKENIZER]
    if part == "llm":
        return [file for file in files if file.name == "config.json" or file.suffix == ".safetensors"]
    return files


def _combined(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{_hashes.of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


class FileHashes:
    """Hashes of files, remembered by path, size and time of change, in memory and in the data folder."""

    def __init__(self) -> None:
        self._known: dict[str, str] | None = None
        self._lock = threading.Lock()

    def of(self, file: Path) -> str:
        """The sha256 of `file`, in hex."""
        status = file.stat()
        key = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        with self._lock:
            known = self._read()
            if key not in known:
                with file.open("rb") as stream:
                    known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
                self._write(known)
            return known[key]

    def _read(self) -> dict[str, str]:
        if self._known is None:
            try:
                self._known = dict(json.loads(_cache_file().read_text(encoding="utf-8")))
            except (OSError, ValueError):
                self._known = {}
        return self._known

    def _write(self, known: dict[str, str]) -> None:
        """Best effort: a data folder that can't be written only means hashing again next time."""
        file = _cache_file()
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known), encoding="utf-8")
            temporary.replace(file)
        except OSError:
            return


def _cache_file() -> Path:
    return home() / "cache" / "file_hashes.json"


_hashes = FileHashes()
