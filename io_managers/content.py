"""What a data version is: a SHA-256 over the values of a frame, or over the bytes of a file.

The hash of a frame is taken over column names, types, null positions and values, not over Parquet bytes: the same
content has the same version whatever wrote it, and a hand-edited file is found by hashing what it now holds. It is
taken through Arrow: an expression of polars for each column costs more than all the hashing of a small frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK_BYTES = 1 << 20


def content_hash(frame: pl.DataFrame) -> str:
    """Hash names, types, nulls and values of a frame, in its row order; the order of its columns does not matter.

    Returns
    -------
    64 hexadecimal characters.

    Raises
    ------
    TypeError
        For a column type that tables do not use (only booleans, numbers, strings, datetimes and lists of these).
    """
    digest = hashlib.sha256()
    for each in hashed_bytes(frame):
        digest.update(each)
    return digest.hexdigest()


def hashed_bytes(frame: pl.DataFrame) -> Iterator[bytes]:
    """The bytes whose SHA-256 is the content hash, in pieces."""
    yield f"{frame.height}\0{frame.width}\0".encode()
    for column in sorted(frame.get_columns(), key=lambda each: each.name):
        yield f"{column.name}\0{column.dtype}\0".encode()
        if isinstance(column.dtype, pl.Datetime):
            values = column.to_arrow()
            yield _nulls(values)  # the nulls of a moment count twice
            yield from _values(values.cast(pa.int64()), column.name)
        else:
            yield from _values(column.to_arrow(), column.name)


def _values(values: pa.Array, name: str) -> Iterator[bytes]:
    yield _nulls(values)
    kind = values.type
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
        yield lengths.to_numpy(zero_copy_only=False).tobytes()
        yield from _values(values.flatten(), name)
    elif pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_string_view(kind):
        texts = values if pa.types.is_large_string(kind) else values.cast(pa.large_string())
        yield from _texts(_without_nulls(texts, ""))
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield np.ascontiguousarray(_without_nulls(values, 0).to_numpy(zero_copy_only=False)).tobytes()
    else:
        raise TypeError(f"column {name!r} has type {kind}, which tables do not use")


def _nulls(values: pa.Array) -> bytes:
    if values.null_count == 0:
        return bytes(-(-len(values) // 8))
    return np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes()


def _without_nulls(values: pa.Array, instead: str | int) -> pa.Array:
    return values if values.null_count == 0 else pc.fill_null(values, pa.scalar(instead).cast(values.type))


def _texts(texts: pa.Array) -> Iterator[bytes]:
    """The lengths of all texts in bytes, and the texts one behind the other."""
    if len(texts) == 0:
        yield from (b"", b"")
        return
    _, offsets, content = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    yield np.diff(bounds).tobytes()
    yield b"" if content is None else memoryview(content)[bounds[0] : bounds[-1]].tobytes()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal characters."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
