"""The folder that a fine-tuning writes: the folder it began with, another language model, and a note of how it came.

Knows no training and no chat.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoints import LANGUAGE

NOTE = "fine-tuning.json"
REPLACED = ("model*.safetensors", "pytorch_model*", "*.index.json")
WEIGHTS = ".safetensors"


def write_folder(source: Path, target: Path, network: Any, note: Mapping[str, Any]) -> None:
    """Write `target`, whole or not at all: `source` with the weights of `network`, a LlamaForCausalLM.

    Its codecs' weights are linked where the disk can, else copied; the source's own description stays behind.
    """
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        inside = shutil.ignore_patterns(*REPLACED)(folder, names) if here == source / LANGUAGE else set()
        return {*inside, *({"README.md", "__init__.py", "__pycache__", NOTE} if here == source else ())} & set(names)

    shutil.copytree(source, fresh, copy_function=_linked, ignore=left_out)
    settings = {file: file.read_bytes() for file in (fresh / LANGUAGE).glob("*.json") if file.name != "config.json"}
    network.save_pretrained(fresh / LANGUAGE)
    for file, content in settings.items():
        file.write_bytes(content)  # the network would write its own over them
    for file in (fresh / LANGUAGE).glob(f"*{WEIGHTS}"):
        file.chmod(0o644)
    (fresh / NOTE).write_text(json.dumps(note, indent=2) + "\n", "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _linked(source: str, target: str) -> None:
    """Only weights, which nobody edits: what is changed in one of two linked files is changed in both."""
    if source.endswith(WEIGHTS):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
