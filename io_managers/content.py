"""What a data version is: a SHA-256 over the values of a frame, or over the bytes of a file.

The hash of a frame is taken over column names, types, null positions and values, not over Parquet bytes: the same
content has the same version whatever wrote it, and a hand-edited file is found by hashing what it now holds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

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
    digest.update(f"{frame.height}\0{frame.width}\0".encode())
    for column in sorted(frame.get_columns(), key=lambda each: each.name):
        digest.update(f"{column.name}\0{column.dtype}\0".encode())
        _update(digest, column)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, column: pl.Series) -> None:
    digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
    dtype = column.dtype
    if isinstance(dtype, pl.List):
        lengths = column.list.len().fill_null(0)
        digest.update(lengths.cast(pl.Int64).to_numpy().tobytes())
        # An empty list explodes to a null, which would be counted as a value.
        _update(digest, column.filter(lengths > 0).explode())
    elif dtype == pl.String:
        text = column.fill_null("")
        digest.update(text.str.len_bytes().cast(pl.Int64).to_numpy().tobytes())
        digest.update("".join(text.to_list()).encode())
    elif dtype.is_numeric() or dtype == pl.Boolean:
        digest.update(np.ascontiguousarray(column.fill_null(0 if dtype.is_numeric() else False).to_numpy()).tobytes())
    elif isinstance(dtype, pl.Datetime):
        _update(digest, column.to_physical())
    else:
        raise TypeError(f"column {column.name!r} has type {dtype}, which tables do not use")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal characters."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
