"""What a table schema is: columns with names, types, nullability, units and meaning.

A frame that does not fit is refused with the difference. The tables themselves are in `spatial_tables.py`,
`policy_tables.py`, `operations_tables.py` and `lineage_tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

import polars as pl

EQUAL: Final = "equal"
VOLATILE: Final = "volatile"


class SchemaError(ValueError):
    """A frame that does not fit its table; the message lists every difference."""


@dataclass(frozen=True)
class Column:
    """One column: its type, meaning, unit ('' where there is none) and whether it may be null.

    ``compared`` says how a replay holds it against the published value: `equal` in every bit, `volatile` (no result: a
    time, or a name that is given anew; not compared), or within this absolute tolerance.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False
    compared: Literal["equal", "volatile"] | float = EQUAL


@dataclass(frozen=True)
class TableSchema:
    """One table: what a row is, and its columns in order.

    ``identity`` are the columns that say WHICH row it is: a row of one table stands on those rows of another that agree
    in the identity columns of both. ``versioned`` tables keep every version of a partition that was ever published.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    identity: tuple[str, ...] = ()
    versioned: bool = True

    def empty(self) -> pl.DataFrame:
        """A frame without rows in this schema, system columns included."""
        return pl.DataFrame(schema={column.name: column.dtype for column in (*self.columns, *SYSTEM_COLUMNS)})

    def completed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of an earlier version of this schema in the present one: columns that they lack are null."""
        missing = [column for column in self.columns if column.name not in frame.columns]
        return frame.with_columns(pl.lit(None, column.dtype).alias(column.name) for column in missing)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with its columns in the schema's order.

        Raises
        ------
        SchemaError
            Naming missing, unknown and wrongly typed columns, nulls where none may be, and NaN.
        """
        problems = list(self._differences(frame))
        if problems:
            raise SchemaError(
                f"this frame does not fit table {self.name!r}:\n  - "
                + "\n  - ".join(problems)
                + f"\nNothing was written. `tracebed tables {self.name}` prints the schema."
            )
        return frame.select([column.name for column in self.columns])

    def _differences(self, frame: pl.DataFrame) -> Iterable[str]:
        expected = {column.name: column for column in self.columns}
        for name in frame.columns:
            if name not in expected:
                yield f"column {name!r} ({frame.schema[name]}) is not in the schema"
        for name, column in expected.items():
            if name not in frame.columns:
                yield f"column {name!r} ({column.dtype}) is missing"
                continue
            found = frame.get_column(name)
            if found.dtype != column.dtype:
                yield f"column {name!r} is {found.dtype}, expected {column.dtype}"
                continue
            if not column.nullable and found.null_count():
                yield f"column {name!r} has {found.null_count()} nulls, expected none"
            if found.dtype.is_float() and (bad := int((~found.drop_nulls().is_finite()).sum())):
                yield f"column {name!r} has {bad} values that are NaN or infinite, expected finite numbers"


def text(name: str, meaning: str, nullable: bool = False) -> Column:
    """A column of strings."""
    return Column(name, pl.String(), meaning, nullable=nullable)


def integer(name: str, meaning: str, unit: str = "", nullable: bool = False) -> Column:
    """A column of whole numbers."""
    return Column(name, pl.Int64(), meaning, unit, nullable)


def number(name: str, meaning: str, unit: str = "", nullable: bool = False) -> Column:
    """A column of finite numbers."""
    return Column(name, pl.Float64(), meaning, unit, nullable)


def flag(name: str, meaning: str) -> Column:
    """A column of yes and no."""
    return Column(name, pl.Boolean(), meaning)


def time(name: str, meaning: str) -> Column:
    """A column of moments, UTC."""
    return Column(name, pl.Datetime("us", "UTC"), meaning, "UTC", compared=VOLATILE)


def optional_time(name: str, meaning: str) -> Column:
    """A column of moments, UTC, that may be null."""
    return Column(name, pl.Datetime("us", "UTC"), meaning, "UTC", nullable=True, compared=VOLATILE)


def volatile(column: Column) -> Column:
    """A column that says how or when a row came to be, and is no result."""
    return replace(column, compared=VOLATILE)


SYSTEM_COLUMNS = (
    text("run_id", "Dagster run that published this row"),
    text("data_version", "content hash of the partition that this row belongs to (these two columns left out)"),
)
