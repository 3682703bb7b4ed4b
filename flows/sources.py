"""What is to be converted: a folder, a glob, a CSV or a JSONL table, here or behind an fsspec URL, as inputs.

Columns of a table: `text`; `image`, `speech`, `music`, `audio` or `media` (paths beside the table, `;` between them);
`to`, `voice`, `seed`, `id`; every other column travels along as metadata. A mapping says which of the table's columns
serve as which of these, where their names differ. Nothing here opens a medium.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..anygpt_model.errors import InputError, SettingsError

TABLES = {".csv", ".jsonl", ".ndjson"}
TEXTS = {".txt", ".md"}
MEDIA_COLUMNS = {"image": "image", "speech": "speech", "music": "music", "audio": None, "media": None}
"""A column of files -> the modality that its name says; None lets the content say."""
OPTIONS = ("to", "voice", "seed")
LARGEST = 1 << 30
"""Bytes of a table."""
COLUMNS = ("text", *MEDIA_COLUMNS, *OPTIONS, "id")
"""The columns that mean something."""
Files = tuple[tuple[str, str | None], ...]
csv.field_size_limit(sys.maxsize)  # the csv module stops at 128 KiB a cell; how long a text may be is judged later


@dataclass(frozen=True, slots=True)
class Input:
    """One row. name: its identity within the job. media: (path, modality or None) of each file.

    text_file: a path whose content is the text. to, voice, seed: over the job's own, where given.
    """

    name: str
    text: str = ""
    media: Files = ()
    text_file: str | None = None
    to: str | None = None
    voice: str | None = None
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Source:
    """A place to read from; `inputs()` lists it, `read()` opens one of its files."""

    def __init__(self, where: str, columns: Mapping[str, str] | None = None) -> None:
        """columns: our name of a column -> the table's. Raises SettingsError for a place or a column not known."""
        from fsspec.core import url_to_fs

        self._columns = dict(columns or {})
        if strange := set(self._columns) - set(COLUMNS):
            known = ", ".join(COLUMNS)
            raise SettingsError(f"There is no column named {sorted(strange)[0]!r} to map to; use one of {known}.")
        try:
            self._files, self._path = url_to_fs(where)
        except (ValueError, ImportError) as error:
            raise SettingsError(f"{where} can't be opened ({error}); give a path or an fsspec URL.") from None
        self.where = where

    def inputs(self) -> list[Input]:
        """Every input, in a fixed order. Raises InputError for a source that doesn't exist or holds nothing."""
        found = list(self._listed())
        if not found:
            raise InputError(f"{self.where} holds nothing to convert; give a folder, a glob, a CSV or a JSONL file.")
        names = Counter(item.name for item in found)
        if len(names) < len(found):
            twice = names.most_common(1)[0][0]
            raise InputError(f"{self.where} names {twice!r} twice in its column id; give every row an id of its own.")
        return found

    def read(self, path: str, largest: int) -> bytes:
        """The bytes of a file of at most `largest` bytes. Raises InputError."""
        try:
            size = self._files.size(path)
            if size is not None and size > largest:
                raise InputError(f"{path} has {size:,} bytes; at most {largest:,} are taken.")
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; correct the path.") from None
        except OSError as error:
            raise InputError(f"{path} can't be read ({error.strerror or error}); check its permissions.") from None
        except ValueError as error:
            raise InputError(f"{path!r} is no path ({error}); correct it.") from None
        return data

    def _listed(self) -> Iterator[Input]:
        if any(sign in self._path for sign in "*?["):
            return self._each(sorted(path for path in self._files.glob(self._path) if self._files.isfile(path)))
        if self._files.isdir(self._path):
            return self._each(sorted(self._files.find(self._path)))
        if not self._files.exists(self._path):
            raise InputError(f"{self.where} does not exist; give a folder, a glob, a CSV or a JSONL file.")
        if PurePosixPath(self._path).suffix.lower() in TABLES:
            return self._rows()
        return self._each([self._path])

    def _each(self, paths: list[str]) -> Iterator[Input]:
        """One input a file; hidden files are nobody's input."""
        for path in paths:
            name = self._named(path)
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                continue
            is_text = PurePosixPath(path).suffix.lower() in TEXTS
            yield Input(name, text_file=path) if is_text else Input(name, media=((path, None),))

    def _named(self, path: str) -> str:
        root = self._path.rstrip("/") + "/"
        return printable(path.removeprefix(root) if path.startswith(root) else path)

    def _rows(self) -> Iterator[Input]:
        try:
            text = self.read(self._path, LARGEST).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{self.where} is not UTF-8; save the table as UTF-8.") from None
        rows = list(_csv(text, self.where) if self._path.lower().endswith(".csv") else _jsonl(text, self.where))
        for column in self._columns.values():
            if rows and not any(column in row for row in rows):
                has = ", ".join(map(repr, rows[0]))
                raise SettingsError(f"{self.where} has no column {column!r} to map; its first row has {has}.")
        folder = self._path.rpartition("/")[0]
        for number, row in enumerate(rows, 1):
            yield _input(self._mapped(row), f"row {number:06d}", folder)

    def _mapped(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row under our names; a column of ours that another one serves as is metadata no more."""
        ours = {ours: row[theirs] for ours, theirs in self._columns.items() if theirs in row}
        rest = {name: cell for name, cell in row.items() if name not in self._columns.values()}
        return {**{name: cell for name, cell in rest.items() if name not in self._columns}, **ours}


def printable(text: str) -> str:
    """`text` with what is no character (a byte of a file's name that is not UTF-8, half of a pair) spelled out."""
    return text.encode(errors="backslashreplace").decode()


def _csv(text: str, where: str) -> Iterator[dict[str, Any]]:
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            # Cells beyond the header come under None; a short row has None as a value.
            yield {name.strip(): value for name, value in row.items() if name is not None and value not in (None, "")}
    except csv.Error as error:
        raise InputError(f"{where} is not CSV ({error}); save the table anew.") from None


def _jsonl(text: str, where: str) -> Iterator[dict[str, Any]]:
    decode = json.JSONDecoder(parse_constant=_no_number).decode
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would cut at signs that JSON takes inside a text
        if not line.strip():
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(f"{where} line {number} is not JSON ({why}); write one object a line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{where} line {number} is {type(row).__name__}; write one object a line.")
        yield {str(name): value for name, value in row.items() if value is not None}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _input(row: dict[str, Any], name: str, folder: str) -> Input:
    media: list[tuple[str, str | None]] = []
    for column, modality in MEDIA_COLUMNS.items():
        media += [(_beside(path, folder), modality) for path in _paths(row.pop(column, None))]
    given = {option: row.pop(option, None) for option in OPTIONS}
    return Input(
        name=printable(str(row.pop("id", name))),
        text=str(row.pop("text", "")).strip(),
        media=tuple(media),
        to=None if given["to"] is None else str(given["to"]).strip(),
        voice=None if given["voice"] is None else str(given["voice"]),
        seed=_seed(given["seed"], name),
        metadata=row,
    )


def _paths(cell: Any) -> list[str]:
    entries = cell if isinstance(cell, list) else str(cell or "").split(";")
    return [str(entry).strip() for entry in entries if str(entry).strip()]


def _beside(path: str, folder: str) -> str:
    return path if path.startswith("/") or not folder else f"{folder}/{path}"


def _seed(cell: Any, name: str) -> int | None:
    if cell is None:
        return None
    try:
        seed = int(str(cell))
    except ValueError:
        raise InputError(f"{name} has the seed {cell!r}; a seed is a whole number.") from None
    if abs(seed) >= 1 << 63:
        raise InputError(f"{name} has the seed {seed}; a seed has at most 63 bits.")
    return seed
