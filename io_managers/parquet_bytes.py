"""Reading a Parquet file that may be damaged anywhere.

polars aborts the whole process on some flipped bytes (it believes a length and asks for exabytes); Arrow's reader says
what is wrong. So files are read with Arrow, and checked before polars sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from io_managers.schemas import SYSTEM_COLUMNS

_SYSTEM_NAMES = {column.name for column in SYSTEM_COLUMNS}


class Unreadable(ValueError):
    """A file that is no Parquet file, or a damaged one."""


def read_parquet(path: str | Path) -> tuple[dict[str, str], pl.DataFrame]:
    """The key-value metadata and the rows of a file, which is read in one piece.

    Raises
    ------
    FileNotFoundError
        When there is none.
    Unreadable
        When it cannot be read.
    """
    with _opened(path) as stream:
        content = stream.read()
    with _read_by_arrow(pa.BufferReader(content)) as file:
        table = file.read(use_threads=False)
        table.validate(full=True)
        return _texts(file), cast("pl.DataFrame", pl.from_arrow(table))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The key-value metadata of a file; no row is read.

    Raises
    ------
    FileNotFoundError
        When there is none.
    Unreadable
        When it cannot be read.
    """
    with _opened(path) as stream, _read_by_arrow(stream) as file:
        return _texts(file)


def _opened(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:  # a folder, or a file that may not be read
        raise Unreadable(f"it cannot be read: {error.strerror}") from error


@contextmanager
def _read_by_arrow(source: BinaryIO | pa.BufferReader) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(source) as file:
            yield file
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        OverflowError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(f"it cannot be read as Parquet: {reason}") from error


def _texts(file: pq.ParquetFile) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in (file.metadata.metadata or {}).items()}


def without_stamps(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows without the system columns; `DataFrame.drop` takes as long as reading a small file."""
    return pl.DataFrame([column for column in frame.get_columns() if column.name not in _SYSTEM_NAMES])
