"""Pickled weights -> safetensors, once, in a process of their own, with nothing but tensors let through.

Published checkpoints partly come as pickles, and opening a pickle can run code. So another process opens it with
torch's `weights_only`, which builds tensors and plain containers and refuses everything else. Knows no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import PARTS
from .errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".pt", ".pth", ".dev", ".ckpt")
_INDEX, _NEW_INDEX = "pytorch_model.bin.index.json", "model.safetensors.index.json"
_WRAPPERS = ("state_dict", "model", "module")
"""Names under which some files keep their tensors one level down."""
_REFUSED = "refused\t"
"""How the separate process begins the line about a file that it refused."""
_LEFT_OUT = ("optimizer.bin", "scheduler.bin", "training_args.bin")


def pickles(folder: Path) -> list[Path]:
    """The pickled weights of a model's folder that have no safetensors twin yet.

    Only where the layout has weights: a folder given by mistake may hold anybody's pickles, at any depth.
    """
    parts = sorted({part for parts in PARTS.values() for part in parts})
    places = [place for part in parts for place in (folder / part, *sorted((folder / part).glob("*/")))]
    found = [file for place in places for file in sorted(place.glob("*")) if file.suffix in PICKLED]
    return [file for file in found if file.name not in _LEFT_OUT and not twin(file).exists()]


def twin(file: Path) -> Path:
    """Where the safetensors of a pickled file belong: the name that the loader looks for."""
    name = file.with_suffix(".safetensors").name
    if file.parent.name in ("unet", "vae"):
        return file.with_name(name)
    return file.with_name(name.replace("pytorch_model", "model"))


def convert_folder(folder: Path) -> list[Path]:
    """Convert every pickled file under `folder`; the files written. Raises CheckpointError at the first refused one."""
    waiting = {file: twin(file) for file in pickles(folder)}
    convert(waiting)
    convert_indexes(folder)
    return list(waiting.values())


def convert(files: Mapping[Path, Path]) -> None:
    """Write the tensors of each pickle to its target. Raises CheckpointError for the first that is refused."""
    for error in refusals(files).values():
        raise error


def refusals(files: Mapping[Path, Path]) -> dict[Path, CheckpointError]:
    """Write the tensors of each pickle to its target, all in one process; those that hold anything else, and why."""
    if not files:
        return {}
    package = __package__.rpartition(".")[0]
    paths = [str(path) for pair in files.items() for path in pair]
    command = [sys.executable, "-m", f"{package}.anygpt_model.conversion", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = dict(line.removeprefix(_REFUSED).split("\t", 1) for line in done.stderr.splitlines() if _REFUSED in line)
    left = [file for file, target in files.items() if not target.exists()]
    return {file: _refusal(file, said.get(str(file), f"the conversion ended with {done.returncode}")) for file in left}


def _refusal(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file} was refused, and nothing in it was run: it is damaged or holds more than tensors "
        f"({reason[:200]}); fetch it again from its publisher."
    )


def convert_indexes(folder: Path) -> None:
    """Write the index of sharded weights anew, with the names of the converted shards."""
    for index in folder.glob(f"*/{_INDEX}"):
        target = index.with_name(_NEW_INDEX)
        if not target.exists():
            table = json.loads(index.read_text(encoding="utf-8"))
            table["weight_map"] = {name: twin(index.with_name(file)).name for name, file in table["weight_map"].items()}
            target.write_text(json.dumps(table), encoding="utf-8")


def _tensors(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of what a file held. Raises ValueError where there are none."""
    import torch

    while isinstance(loaded, dict) and not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        inner = next((loaded[name] for name in _WRAPPERS if name in loaded), None)
        if inner is None:
            raise ValueError("no tensors under names were found")
        loaded = inner
    if not isinstance(loaded, dict):
        raise ValueError("no tensors under names were found")
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor):
            yield str(name), value


def _main(source: Path, target: Path) -> None:
    """What the separate process does with one file."""
    import torch
    from safetensors.torch import save_file

    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in _tensors(loaded):
        shared = value.untyped_storage().data_ptr() in seen
        seen.add(value.untyped_storage().data_ptr())
        tensors[name] = value.detach().clone() if shared else value.detach().contiguous()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The line that says what was found; torch puts advice around it."""
    said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return (said.splitlines() or [""])[0].partition(" by default")[0]


if __name__ == "__main__":
    for given, wanted in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            _main(Path(given), Path(wanted))
        except Exception as error:
            sys.stderr.write(f"{_REFUSED}{given}\t{type(error).__name__}: {_reason(error)}\n")
