"""Where results go: files named by turn, and the manifest that says what became of every input.

A local file is written whole or not at all; other places are written by fsspec in one call. Knows no model.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..anygpt_model.errors import SettingsError
from ..storage.jobs import Item
from .sources import printable

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
}
MANIFEST = "manifest.jsonl"
SPELLED = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
Document = dict[str, Any]


class Destination:
    """A folder, here or behind an fsspec URL."""

    def __init__(self, where: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._files, self._path = url_to_fs(where)
            self._files.makedirs(self._path, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise SettingsError(f"The folder {where} can't be written to ({error}); choose another.") from None
        self._local = "file" in self._files.protocol
        self.where = where

    def put(self, name: str, data: bytes) -> str:
        """Write `data` under `name`; returns the name."""
        if self._local:
            _replace(Path(self._path) / name, data)
        else:
            self._files.pipe_file(f"{self._path.rstrip('/')}/{name}", data)
        return name

    def put_lines(self, name: str, rows: Iterable[Document]) -> None:
        """Write `rows` as JSON, one a line."""
        lines = "".join(SPELLED(row) + "\n" for row in rows)
        # A file's name may hold bytes that are not UTF-8; spelled this way they are JSON's escapes, and come back.
        self.put(name, lines.encode(errors="backslashreplace"))

    def write_manifest(self, rows: Sequence[Document]) -> None:
        """manifest.jsonl, and manifest.parquet where pyarrow is installed."""
        self.put_lines(MANIFEST, rows)
        packed = _parquet(rows)
        if packed is not None:
            self.put("manifest.parquet", packed)


def manifest_rows(items: Iterable[Item], names: Sequence[str]) -> list[Document]:
    """What became of each input, in the source's order; rows of inputs that are no longer there are left out."""
    found = {item.name: item for item in items}
    return [manifest_row(found[name]) for name in names if name in found]


def manifest_row(item: Item) -> Document:
    """One line of the manifest."""
    asked, made = item.source, item.outputs or {}
    return {
        "name": item.name,
        "status": item.state,
        "key": item.key,
        "turn": item.turn,
        "to": asked["to"],
        "seed": asked["seed"],
        "inputs": ([asked["text_file"]] if asked["text_file"] else []) + [path for path, _ in asked["media"]],
        "input_hashes": asked["hashes"],
        "input_text": asked["text"],
        "text": made.get("text", ""),
        "outputs": made.get("files", []),
        "media": made.get("media", []),
        "error": item.reason,
        "metadata": asked["metadata"],
    }


def file_name(turn: str, number: int, mime: str) -> str:
    """A result's name: from its turn and its place in the reply, never from what a user or a model said."""
    return f"{turn}-{number}{SUFFIXES.get(mime, '.bin')}"


def _parquet(rows: Sequence[Document]) -> bytes | None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    # Columns of many shapes (files, metadata) travel as JSON text: one schema for every job.
    nested = ("inputs", "input_hashes", "outputs", "media", "metadata")
    flat = [{**row, **{name: printable(SPELLED(row[name])) for name in nested}} for row in rows]
    for row in flat:
        row["input_text"] = printable(row["input_text"])
    text = pyarrow.string()
    fields = [(name, pyarrow.int64() if name == "seed" else text) for name in flat[0]] if flat else []
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat, schema=pyarrow.schema(fields)), out)
    return out.getvalue()


def _replace(path: Path, data: bytes) -> None:
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".anyloom-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only the owner may read; results are as readable as any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); free some space or choose another.") from None
