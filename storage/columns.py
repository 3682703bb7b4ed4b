"""Column types: what SQL has no word for, kept so that the bytes are the same on SQLite and PostgreSQL.

Knows no table. Number arrays are raw little-endian numbers behind one byte that names their width.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Dialect, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

INTEGERS: dict[int, np.dtype[Any]] = {0x02: np.dtype("<u2"), 0x04: np.dtype("<u4"), 0x08: np.dtype("<i8")}
FLOATS: dict[int, np.dtype[Any]] = {0x14: np.dtype("<f4"), 0x18: np.dtype("<f8")}
ESCAPED = "\x1ajson:"
"""Begins a text that PostgreSQL or UTF-8 could not take as it is (a zero character, a lone surrogate)."""


def integer_array(values: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """`values` [n] as little-endian i64. For a tuple this is three times as fast as numpy's own conversion."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, dtype="<i8")
    return np.frombuffer(struct.pack(f"<{len(values)}q", *values), dtype="<i8")


def float_array(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """`values` [n] as little-endian f64."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, dtype="<f8")
    return np.frombuffer(struct.pack(f"<{len(values)}d", *values), dtype="<f8")


def pack_integers(values: Sequence[int] | NDArray[Any]) -> bytes:
    """The narrowest of u16, u32 and i64 that holds all `values` [n], behind its header byte."""
    array = integer_array(values)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    code = 0x08 if low < 0 or high > 0xFFFFFFFF else 0x04 if high > 0xFFFF else 0x02
    return b"".join((bytes((code,)), array.astype(INTEGERS[code]).data))


def unpack_integers(packed: bytes) -> NDArray[np.int64]:
    """The integers [n] behind `packed`. Raises ValueError for bytes that `pack_integers` did not write."""
    return np.frombuffer(packed, _width(packed, INTEGERS), offset=1).astype(np.int64)


def pack_floats(values: Sequence[float] | NDArray[Any]) -> bytes:
    """f32 if that loses nothing (a float32 model's numbers), otherwise f64, behind its header byte."""
    wide = float_array(values)
    with np.errstate(over="ignore"):
        narrow = wide.astype("<f4")
    again = narrow.astype(np.float64)
    exact = bool((again == wide).all()) or np.array_equal(again, wide, equal_nan=True)
    return b"".join((b"\x14", narrow.data) if exact else (b"\x18", wide.data))


def unpack_floats(packed: bytes) -> NDArray[np.float64]:
    """The floats [n] behind `packed`. Raises ValueError for bytes that `pack_floats` did not write."""
    return np.frombuffer(packed, _width(packed, FLOATS), offset=1).astype(np.float64)


def _width(packed: bytes, widths: dict[int, np.dtype[Any]]) -> np.dtype[Any]:
    if not packed or packed[0] not in widths:
        raise ValueError(f"an array of numbers begins with {packed[:1]!r}; one of {sorted(widths)} is known")
    return widths[packed[0]]


class Integers(TypeDecorator[NDArray[np.int64]]):
    """Whole numbers [n], packed."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        """Array or sequence -> bytes."""
        return None if value is None else pack_integers(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> NDArray[np.int64] | None:
        """Bytes -> int64 array."""
        return None if value is None else unpack_integers(bytes(value))

    def compare_values(self, x: Any, y: Any) -> bool:
        """Equal as arrays."""
        return bool(np.array_equal(x, y))


class Floats(TypeDecorator[NDArray[np.float64]]):
    """Real numbers [n], packed without loss."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        """Array or sequence -> bytes."""
        return None if value is None else pack_floats(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> NDArray[np.float64] | None:
        """Bytes -> float64 array."""
        return None if value is None else unpack_floats(bytes(value))

    def compare_values(self, x: Any, y: Any) -> bool:
        """Equal as arrays, a NaN being equal to a NaN."""
        return bool(np.array_equal(x, y, equal_nan=True))


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""The one JSON spelling of a document: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinity."""


class Spelled(str):
    """A document that is canonical text already."""


class Json(TypeDecorator[Any]):
    """A JSON document as canonical ASCII text. Nothing queries inside, and JSONB refuses the zero character."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Document -> text."""
        return value if value is None or isinstance(value, Spelled) else canonical(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Text -> document."""
        return None if value is None else json.loads(value)


class AnyText(TypeDecorator[str]):
    """Any Python string. One with a zero character or a lone surrogate is kept escaped and comes back as it was."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """String -> text that every database takes."""
        if value is None or not _awkward(value):
            return value
        return ESCAPED + json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Text -> the string that was given."""
        if value is None or not value.startswith(ESCAPED):
            return value
        return str(json.loads(value.removeprefix(ESCAPED)))


def _awkward(text: str) -> bool:
    if "\x00" in text or text.startswith(ESCAPED):
        return True
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


class WideInt(TypeDecorator[int]):
    """An integer of any width (seeds go up to 64 bits without a sign), as decimal text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """Integer -> text."""
        return None if value is None else str(int(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """Text -> integer."""
        return None if value is None else int(value)
