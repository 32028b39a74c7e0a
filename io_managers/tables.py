"""Table partitions: one Parquet file each, published by rename, read by anyone at any time.

`tables/<table>/<key>/.../data.parquet`. The file's own metadata says which asset, partition, run and content it is, so
a partition that was read can be named exactly, whatever happens to it later. Dagster is not needed to read any of it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from io_managers.content import content_hash
from io_managers.publish import publish_file
from io_managers.schemas import SYSTEM_COLUMNS, TABLES, table

_FILE = "data.parquet"
_SYSTEM_NAMES = [column.name for column in SYSTEM_COLUMNS]


class MissingPartition(FileNotFoundError):
    """A partition that was never published."""


class DamagedPartition(RuntimeError):
    """A partition whose rows are not those that were published."""


@dataclass(frozen=True)
class TablePartition:
    """One published partition, by reference: what it is, and where.

    Attributes
    ----------
    asset, partition : the asset key (`spatial/section`) and its partition key ('' for none).
    data_version : content hash of the rows.
    run_id : the run that published it.
    address : the Parquet file.
    """

    asset: str
    partition: str
    data_version: str
    run_id: str
    address: Path

    def frame(self) -> pl.DataFrame:
        """The rows without the system columns, after their content was held against the data version.

        Raises
        ------
        DamagedPartition
            When the rows were changed after publication, or replaced since this reference was taken.
        """
        rows = pl.read_parquet(self.address, hive_partitioning=False).drop(_SYSTEM_NAMES)
        found = content_hash(rows)
        if found != self.data_version:
            raise DamagedPartition(
                f"{self.address} does not hold what {self.asset} [{self.partition}] published: content hash {found}, "
                f"expected {self.data_version}. It was edited, damaged, or replaced while this run was reading; "
                "materialise it again"
            )
        return rows


@dataclass(frozen=True)
class TableStore:
    """The tables under one folder."""

    root: Path

    def ensure(self) -> None:
        """Give every table its schema file, so that views over it are valid before the first partition."""
        for name, schema in TABLES.items():
            path = self.root / name / _FILE
            empty = schema.empty()
            if not path.exists() or pl.read_parquet_schema(path) != empty.schema:
                publish_file(path, partial(_write_parquet, empty))

    def address(self, name: str, key: tuple[str, ...]) -> Path:
        """Where a partition lies. ``key`` are the folder names below the table, at least one."""
        table(name)
        if not key or any(part in ("", ".", "..") or "/" in part for part in key):
            raise ValueError(f"not a partition key of table {name!r}: {key!r}; expected one or more plain folder names")
        return self.root.joinpath(name, *key, _FILE)

    def publish(
        self, name: str, key: tuple[str, ...], frame: pl.DataFrame, *, asset: str, partition: str, run_id: str
    ) -> TablePartition:
        """Check a frame against its table's schema and publish it as one partition.

        Raises
        ------
        SchemaError
            When the frame does not fit; nothing is written.
        OSError
            When it cannot be written; the old partition is unchanged.
        """
        rows = table(name).conform(frame)
        published = TablePartition(asset, partition, content_hash(rows), run_id, self.address(name, key))
        stamped = rows.with_columns(
            pl.lit(run_id).alias("run_id"), pl.lit(published.data_version).alias("data_version")
        )
        metadata = {
            "tracebed.asset": asset,
            "tracebed.partition": partition,
            "tracebed.run_id": run_id,
            "tracebed.data_version": published.data_version,
        }
        publish_file(published.address, partial(_write_parquet, stamped, metadata=metadata))
        return published

    def partition(self, name: str, key: tuple[str, ...]) -> TablePartition:
        """The reference of a published partition.

        Raises
        ------
        MissingPartition
            When it was never published.
        DamagedPartition
            When the file does not say what it is: it was not written by the platform.
        """
        address = self.address(name, key)
        try:
            metadata = pl.read_parquet_metadata(address)
        except FileNotFoundError:
            raise MissingPartition(
                f"table {name!r} has no partition {'/'.join(key)} (expected {address}); materialise it first"
            ) from None
        except pl.exceptions.PolarsError as error:
            raise DamagedPartition(f"{address} cannot be read as Parquet ({error}); materialise it again") from error
        try:
            return TablePartition(
                metadata["tracebed.asset"],
                metadata["tracebed.partition"],
                metadata["tracebed.data_version"],
                metadata["tracebed.run_id"],
                address,
            )
        except KeyError as error:
            raise DamagedPartition(
                f"{address} lacks the platform's metadata ({error}): it was written or rewritten by another tool; "
                "materialise it again"
            ) from error

    def partitions(self, name: str) -> list[TablePartition]:
        """Every published partition of a table, in the order of their addresses."""
        folder = self.root / name
        keys = [path.parent.relative_to(folder).parts for path in sorted(folder.rglob(_FILE)) if path.is_file()]
        return [self.partition(name, key) for key in keys if key]

    def scan(self, name: str) -> pl.DataFrame:
        """All rows of a table, system columns included."""
        table(name)
        files = sorted(path for path in (self.root / name).rglob(_FILE) if path.is_file())
        if not files:
            return table(name).empty()
        return pl.concat([_read(path) for path in files], how="diagonal")


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, hive_partitioning=False)
    except pl.exceptions.PolarsError as error:
        raise DamagedPartition(f"{path} cannot be read as Parquet ({error}); materialise it again") from error


def _write_parquet(frame: pl.DataFrame, path: Path, metadata: dict[str, str] | None = None) -> None:
    # Through memory: polars reports a full disk as a malformed file, Python as what it is.
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata)
    path.write_bytes(buffer.getbuffer())
