"""The DuckDB catalog: a view for each table, in a file that is replaced whole.

`platform.duckdb` holds views over the Parquet files and no data, so nobody who has it open ever blocks a writer; it is
built again only when a schema changes. `snapshot` writes the rows themselves into one file to carry away.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from home import Home
from io_managers.publish import publish_file
from io_managers.schemas import SYSTEM_COLUMNS, TABLES, TableSchema
from io_managers.tables import TableStore

if TYPE_CHECKING:
    import duckdb


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _source(tables: Path, name: str) -> str:
    files = _quoted(f"{tables / name}/**/data.parquet")
    return f"SELECT * FROM read_parquet({files}, union_by_name = true, hive_partitioning = false)"


def _comments(kind: str, schema: TableSchema) -> list[str]:
    statements = [f'COMMENT ON {kind} "{schema.name}" IS {_quoted(schema.row)}']
    for column in (*schema.columns, *SYSTEM_COLUMNS):
        text = f"{column.meaning} [{column.unit}]" if column.unit else column.meaning
        statements.append(f'COMMENT ON COLUMN "{schema.name}"."{column.name}" IS {_quoted(text)}')
    return statements


def _define(connection: duckdb.DuckDBPyConnection, tables: Path, *, native: bool) -> None:
    kind = "TABLE" if native else "VIEW"
    for name, schema in TABLES.items():
        connection.execute(f'CREATE {kind} "{name}" AS {_source(tables, name)}')
        for statement in _comments(kind, schema):
            connection.execute(statement)


def _write(destination: Path, tables: Path, *, native: bool) -> None:
    import duckdb

    def build(draft: Path) -> None:
        with duckdb.connect(draft) as connection:
            _define(connection, tables, native=native)

    publish_file(destination, build)


def _signature(home: Home) -> str:
    return hashlib.sha256(f"{home.tables}\n{TABLES!r}".encode()).hexdigest()


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
