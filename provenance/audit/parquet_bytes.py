"""Reading a Parquet file that may be damaged anywhere.

polars aborts the whole process on some flipped bytes (it believes a length and asks for exabytes); Arrow's reader says
what is wrong. So an audit reads with Arrow, and checks what it has read before polars sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

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
    content = Path(path).read_bytes()
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            metadata = {name.decode(): text.decode() for name, text in (file.metadata.metadata or {}).items()}
            table = file.read(use_threads=False)
        table.validate(full=True)
        return metadata, cast("pl.DataFrame", pl.from_arrow(table))
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        OverflowError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise Unreadable(
            f"it cannot be read as Parquet: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error


def without_stamps(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows without the system columns; `DataFrame.drop` takes as long as reading a small file."""
    return pl.DataFrame([column for column in frame.get_columns() if column.name not in _SYSTEM_NAMES])
