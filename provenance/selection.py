"""Which rows a number stands on: rows of one table agree with those that they were made from in identity columns.

A table's schema names the columns that say which row it is. A success rate of one evaluation and arm stands on the
rollouts of that evaluation and arm, and these on the checkpoint with that hash. Where two tables share no such column,
all rows count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import polars as pl

from io_managers.columns import TableSchema
from io_managers.content import content_hash
from io_managers.schemas import table

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Ambiguous(ValueError):
    """A description of one number that fits none, or several."""


@dataclass(frozen=True)
class Selection:
    """Rows of a table, by the values of its identity columns.

    Attributes
    ----------
    rows : the selected rows, system columns left out.
    """

    schema: TableSchema
    rows: pl.DataFrame

    @classmethod
    def nothing(cls, name: str) -> Selection:
        """No row of a table."""
        return cls(table(name), table(name).empty())

    def of(self, name: str, frame: pl.DataFrame) -> Selection:
        """The rows of another table's ``frame`` that these rows stand on."""
        other = table(name)
        if self.rows.is_empty():
            return Selection(other, frame.clear())
        frame = self._of_either(other, frame)
        shared = [column for column in self.schema.identity if column in other.identity]
        shared = [column for column in shared if column in self.rows.columns and column in frame.columns]
        # A control has no checkpoint: a column that is null in every selected row selects nothing and is left out.
        shared = [column for column in shared if self.rows[column].null_count() < self.rows.height]
        if not shared:
            return Selection(other, frame)
        wanted = self.rows.select(shared).unique()
        return Selection(other, frame.join(wanted, on=shared, how="semi", nulls_equal=True))

    def _of_either(self, other: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """A row about two things (`policy_a`, `policy_b`) stands on the rows of either."""
        for column in other.identity:
            pair = [f"{column}_a", f"{column}_b"]
            if set(pair) <= set(self.schema.identity) and column in frame.columns:
                either = {value for each in pair for value in self.rows[each].to_list()}
                frame = frame.filter(pl.col(column).is_in(either))
        return frame

    def rows_beyond(self, known: Selection) -> bool:
        """Whether there is a row here that ``known`` lacks."""
        return not self._beyond(known).is_empty()

    def with_rows(self, more: Selection) -> Selection:
        """These rows, and those of another selection of the same version."""
        return Selection(self.schema, pl.concat([self.rows, more._beyond(self)]))

    def _beyond(self, known: Selection) -> pl.DataFrame:
        identity = [column for column in self.schema.identity if column in self.rows.columns]
        return self.rows.join(known.rows, on=identity, how="anti", nulls_equal=True)

    def missing_in(self, frame: pl.DataFrame) -> bool:
        """Whether ``frame`` (of the same table) lacks some of these rows, as they are; which one is chosen aside."""
        if self.rows.is_empty():
            return True
        shared = [
            column
            for column in self.rows.columns
            if column in frame.columns and column != "chosen" and not isinstance(self.rows[column].dtype, pl.List)
        ]
        return not self.rows.join(frame.select(shared), on=shared, how="anti", nulls_equal=True).is_empty()

    def difference(self, frame: pl.DataFrame) -> str:
        """What differs between these rows and the same ones in ``frame``, in words; empty where nothing does."""
        if self.rows.is_empty():
            return ""
        others = self.of(self.schema.name, frame).rows
        if others.is_empty():
            return "its rows are no longer there"
        if others.height != self.rows.height:
            return f"it stands on {others.height} rows now, {self.rows.height} then"
        names = sorted(set(self.rows.columns) & set(others.columns))
        identity = [column for column in self.schema.identity if column in names]
        mine, theirs = self.rows.sort(identity), others.sort(identity)
        changed = [name for name in names if content_hash(mine.select(name)) != content_hash(theirs.select(name))]
        if "chosen" in changed:
            return "another is chosen now" if mine["chosen"].any() else "it is the chosen one now"
        return f"{', '.join(changed)} changed" if changed else ""


def matching(name: str, frame: pl.DataFrame, where: Mapping[str, str]) -> pl.DataFrame:
    """The rows of a table whose columns read as given; there may be none.

    Raises
    ------
    Ambiguous
        For a column that the table lacks, or a value that its type cannot have.
    """
    if unknown := sorted(set(where) - set(frame.columns)):
        raise Ambiguous(f"table {name!r} has no column {', '.join(unknown)}; it has {', '.join(frame.columns)}")
    for column, wanted in where.items():
        frame = frame.filter(_reads_as(frame[column], wanted))
    return frame


def select(name: str, frame: pl.DataFrame, where: Mapping[str, str]) -> Selection:
    """The rows of a table whose columns read as given.

    Raises
    ------
    Ambiguous
        As `matching`, and when no row fits; says what there is.
    """
    rows = matching(name, frame, where)
    if rows.is_empty():
        told = "\n".join(f"  - {column}: {_values(frame[column])}" for column in where)
        wanted = ", ".join(f"{column}={text}" for column, text in where.items())
        raise Ambiguous(f"no row of this version of {name!r} has {wanted}; found:\n{told}")
    return Selection(table(name), rows)


def _values(column: pl.Series) -> str:
    values = sorted({str(value) for value in column.to_list()})
    return ", ".join(values[:12]) + (f", and {len(values) - 12} more" if len(values) > 12 else "") or "no rows"


def _reads_as(column: pl.Series, wanted: str) -> pl.Series:
    if column.dtype == pl.Boolean:
        if wanted.lower() not in _FLAGS:
            raise Ambiguous(f"column {column.name} holds true or false, found {wanted!r}")
        return column == _FLAGS[wanted.lower()]
    if column.dtype.is_float():
        try:
            return (column - float(wanted)).abs() <= 0.5 * 10 ** -_decimals(wanted)
        except ValueError:
            raise Ambiguous(f"column {column.name} holds numbers, found {wanted!r}") from None
    if column.dtype == pl.String:
        if wanted == "":
            return column.is_null() | (column == "")
        hashed = column.name.endswith(("hash", "artifact", "version", "evaluation")) and len(wanted) >= 6
        return (column.str.starts_with(wanted) if hashed else column == wanted).fill_null(False)
    return column.cast(pl.String) == wanted


def _decimals(text: str) -> int:
    """Digits behind the point: a rate that a paper prints as 0.85 is found by 0.85."""
    exponent = Decimal(text).as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0
