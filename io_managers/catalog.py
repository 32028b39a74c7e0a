"""The DuckDB catalog: a view for each table, and those of `derived_views`, in a file that is replaced whole.

`platform.duckdb` holds views over the Parquet files and no data, so nobody who has it open ever blocks a writer; it is
built again only when a schema changes. `snapshot` writes the rows themselves into one file to carry away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from home import Home
from io_managers.derived_views import STATUS_VIEWS, SUPERSEDED, versions_view
from io_managers.publish import publish_file
from io_managers.schemas import SYSTEM_COLUMNS, TABLES, TableSchema
from io_managers.tables import TableStore

if TYPE_CHECKING:
    import duckdb


_SQL_TYPES = (
    (pl.String(), "VARCHAR"),
    (pl.Int64(), "BIGINT"),
    (pl.Float64(), "DOUBLE"),
    (pl.Float32(), "FLOAT"),
    (pl.Boolean(), "BOOLEAN"),
    (pl.Datetime("us", "UTC"), "TIMESTAMP WITH TIME ZONE"),
)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _source(files: str, schema: TableSchema, *options: str) -> str:
    """A scan of files as the schema says: columns that a file lacks are null, and no file is read to define a view."""
    columns = ", ".join(
        f"{name}: {{name: {name}, type: {_quoted(sql_type(column.dtype))}, default_value: NULL}}"
        for column in (*schema.columns, *SYSTEM_COLUMNS)
        for name in (_quoted(column.name),)
    )
    settings = ", ".join([f"schema = MAP {{{columns}}}", "hive_partitioning = false", *options])
    return f"read_parquet({_quoted(files)}, {settings})"


def _current(tables: Path, name: str) -> str:
    return _source(f"{tables / name}/**/data.parquet", TABLES[name])


def sql_type(dtype: pl.DataType) -> str:
    """DuckDB's name of a column's type.

    Raises
    ------
    TypeError
        For a type that tables do not use.
    """
    if isinstance(dtype, pl.List):
        return f"{sql_type(dtype.inner)}[]"  # type: ignore[arg-type]
    for known, name in _SQL_TYPES:
        if dtype == known:
            return name
    raise TypeError(f"found type {dtype}, which tables do not use")


def _comments(kind: str, schema: TableSchema) -> list[str]:
    statements = [f'COMMENT ON {kind} "{schema.name}" IS {_quoted(schema.row)}']
    for column in (*schema.columns, *SYSTEM_COLUMNS):
        text = f"{column.meaning} [{column.unit}]" if column.unit else column.meaning
        statements.append(f'COMMENT ON COLUMN "{schema.name}"."{column.name}" IS {_quoted(text)}')
    return statements


def _statements(tables: Path, *, native: bool) -> Iterator[str]:
    """All that defines a catalog; ``native`` for tables that hold the rows themselves."""
    kind = "TABLE" if native else "VIEW"
    for name, schema in TABLES.items():
        yield f'CREATE {kind} "{name}" AS SELECT * FROM {_current(tables, name)}'
        yield from _comments(kind, schema)
        if schema.versioned and not native:
            every = _source(f"{tables / name}/**/[!.]*.parquet", schema, "filename = 'tracebed_file'")
            yield f'CREATE VIEW "{name}_versions" AS {versions_view(every)}'
    for name, query in STATUS_VIEWS.items():
        yield f'CREATE VIEW "{name}" AS {query}'


def _define(connection: duckdb.DuckDBPyConnection, tables: Path, *, native: bool) -> None:
    for statement in _statements(tables, native=native):
        connection.execute(statement)


def _write(destination: Path, tables: Path, *, native: bool) -> None:
    import duckdb

    def build(draft: Path) -> None:
        with duckdb.connect(draft) as connection:
            _define(connection, tables, native=native)

    publish_file(destination, build)


def _signature(home: Home) -> str:
    return hashlib.sha256("\n".join(_statements(home.tables, native=False)).encode()).hexdigest()


def ensure_catalog(home: Home) -> None:
    """Create the home's tables and catalog, or bring them up to the schemas of this code."""
    home.ensure()
    stamp = home.root / ".catalog-signature"
    signature = _signature(home)
    if home.catalog.exists() and stamp.exists() and stamp.read_text() == signature:
        return
    TableStore(home.tables).ensure()
    _write(home.catalog, home.tables, native=False)
    publish_file(stamp, lambda draft: draft.write_text(signature))


def connect(home: Home) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with a view for each table: it can neither block nor be blocked."""
    import duckdb

    ensure_catalog(home)
    connection = duckdb.connect()
    _define(connection, home.tables, native=False)
    return connection


def superseded(home: Home, name: str, rows: pl.DataFrame) -> list[str | None]:
    """Why each row of a metric is not what would be computed now, as the view `<name>_status` says; None where it is.

    ``rows`` need not be published yet. Only for metrics that checkpoints or encoders supersede.
    """
    import duckdb

    with duckdb.connect() as connection:
        for read in ("checkpoint", "encoder"):
            connection.execute(f'CREATE VIEW "{read}" AS SELECT * FROM {_current(home.tables, read)}')
        connection.register("given_rows", rows.with_row_index("given_order"))
        query = f"SELECT {SUPERSEDED[name]} FROM given_rows r ORDER BY given_order"
        return [reason for (reason,) in connection.execute(query).fetchall()]


def snapshot(home: Home, destination: Path) -> None:
    """Write all rows of all tables as native tables into one self-contained DuckDB file.

    Raises
    ------
    FileExistsError
        When the destination exists: a snapshot is never overwritten.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists; a snapshot is never overwritten: name another file")
    ensure_catalog(home)
    _write(destination.resolve(), home.tables, native=True)
