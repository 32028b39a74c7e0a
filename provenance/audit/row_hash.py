"""The content hash of small frames: the hash of `io_managers.content`, without polars' cost for each column.

A lineage record has one row for each input. Through polars' expressions its hash takes milliseconds, all of them
overhead, and an audit needs 100,000 of them. Frames of more rows go to `content_hash` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from io_managers.content import content_hash

SMALL_ROWS = 64
_NUMPY = {
    pl.Int64: np.int64,
    pl.Int32: np.int32,
    pl.Float64: np.float64,
    pl.Float32: np.float32,
    pl.Boolean: np.bool_,
}
_PLAIN = (*_NUMPY, pl.String)


def row_hash(frame: pl.DataFrame) -> str:
    """What `content_hash` gives, of any frame that tables use."""
    if frame.height > SMALL_ROWS or not all(_is_plain(dtype) for dtype in frame.dtypes):
        return content_hash(frame)
    return hashlib.sha256(b"".join(hashed_bytes(frame))).hexdigest()


def hashed_bytes(frame: pl.DataFrame) -> Iterator[bytes]:
    """The bytes whose SHA-256 is the content hash."""
    yield f"{frame.height}\0{frame.width}\0".encode()
    for column in sorted(frame.get_columns(), key=lambda each: each.name):
        yield f"{column.name}\0{column.dtype}\0".encode()
        physical = column.to_physical() if isinstance(column.dtype, pl.Datetime) else column
        values = physical.to_list()
        if physical is not column:
            yield _nulls(values)  # `content_hash` writes the nulls of a moment twice
        yield from _column(values, physical.dtype)


def _is_plain(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return dtype.inner in _PLAIN
    return dtype in _PLAIN or isinstance(dtype, pl.Datetime)


def _column(values: Sequence[Any], dtype: pl.DataType) -> Iterator[bytes]:
    yield _nulls(values)
    if isinstance(dtype, pl.List):
        yield np.array([len(value or ()) for value in values], np.int64).tobytes()
        yield from _column([each for value in values for each in value or ()], dtype.inner)  # type: ignore[arg-type]
    elif dtype == pl.String:
        texts = [(value or "").encode() for value in values]
        yield np.array([len(each) for each in texts], np.int64).tobytes()
        yield b"".join(texts)
    else:
        filled = [0 if value is None else value for value in values]
        yield np.array(filled, _NUMPY[type(dtype)]).tobytes()


def _nulls(values: Sequence[Any]) -> bytes:
    return np.packbits(np.array([value is None for value in values], bool)).tobytes()
