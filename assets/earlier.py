"""Merging with what a partition published before: nothing that was measured is overwritten by what comes later."""

from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from io_managers.schemas import table
from io_managers.table_io_manager import Rows, TableIOManager
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition
from provenance.lineage import Input


def earlier_rows(context: dg.AssetExecutionContext, tables: TableIOManager) -> TablePartition | None:
    """What this partition published before; looked at before any work is done.

    Raises
    ------
    dagster.Failure
        When it is damaged: its rows would be lost.
    """
    try:
        earlier = tables.own_partition(context)
        earlier.frame()
    except MissingPartition:
        return None
    except DamagedPartition as damage:
        raise dg.Failure(
            f"what this partition published before cannot be read, and would be lost: {damage}. Move that file away to "
            "begin a new table partition without its rows",
            allow_retries=False,
        ) from damage
    return earlier


def with_earlier(new: Rows, earlier: TablePartition | None, name: str, identity: list[str], **changed: Any) -> Rows:
    """New rows of table ``name``, and after them the earlier ones of another ``identity``; nothing is overwritten.

    ``changed`` sets columns of the earlier rows (`chosen=False`). Columns that the table did not have then are null.
    """
    if earlier is None:
        return replace(new, replaces="")
    schema = table(name)
    kept = earlier.frame().join(new.frame.select(identity), on=identity, how="anti", nulls_equal=True)
    kept = schema.completed(kept.with_columns(**{column: pl.lit(value) for column, value in changed.items()}))
    columns = [pl.col(column.name).cast(column.dtype) for column in schema.columns]
    merged = pl.concat([schema.completed(each).select(columns) for each in (new.frame, kept)])
    return replace(new, frame=merged, files=[*new.files, Input.of(earlier)], replaces=earlier.data_version)
