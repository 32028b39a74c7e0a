"""Every table by name. `tracebed tables NAME` prints what its columns mean, and the catalog carries the same texts."""

from __future__ import annotations

from io_managers.columns import SYSTEM_COLUMNS, Column, SchemaError, TableSchema
from io_managers.lineage_tables import LINEAGE_TABLES
from io_managers.operations_tables import OPERATIONS_TABLES
from io_managers.policy_tables import POLICY_TABLES
from io_managers.spatial_tables import SPATIAL_TABLES
from io_managers.weights_tables import WEIGHTS_TABLES

__all__ = ["SYSTEM_COLUMNS", "TABLES", "Column", "SchemaError", "TableSchema", "UnknownTable", "table"]


class UnknownTable(ValueError):
    """A table that does not exist."""


TABLES: dict[str, TableSchema] = {
    each.name: each for each in (*SPATIAL_TABLES, *POLICY_TABLES, *WEIGHTS_TABLES, *OPERATIONS_TABLES, *LINEAGE_TABLES)
}


def table(name: str) -> TableSchema:
    """The schema of a table.

    Raises
    ------
    UnknownTable
        Naming the tables that exist.
    """
    if name not in TABLES:
        raise UnknownTable(f"there is no table {name!r}; the tables are {', '.join(sorted(TABLES))}")
    return TABLES[name]
