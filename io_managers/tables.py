"""Table partitions: one Parquet file each, published by rename, read by anyone at any time.

`tables/<table>/<key>/.../data.parquet`. The file's own metadata says which asset, partition, run and content it is, so
a partition that was read can be named exactly, whatever happens to it later. Every version that was ever published
stays beside it, as `versions/<data version>--<run>.parquet` (the newest is another link to the same file). Dagster is
not needed to read any of it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from files import write_whole
from io_managers.content import content_hash
from io_managers.parquet_bytes import Unreadable, read_metadata, read_parquet, without_stamps
from io_managers.publish import publish_file
from io_managers.schemas import TABLES, table

_FILE, _VERSIONS = "data.parquet", "versions"


class MissingPartition(FileNotFoundError):
    """A partition that was never published."""


class NotAKey(ValueError):
    """Something that cannot be the key of a partition."""


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
        rows = self.unverified()
        found = content_hash(rows)
        if found != self.data_version:
            raise DamagedPartition(
                f"{self.address} does not hold what {self.asset} [{self.partition}] published: content hash {found}, "
                f"expected {self.data_version}. It was edited, damaged, or replaced while this run was reading; "
                "materialise it again"
            )
        return rows

    def unverified(self) -> pl.DataFrame:
        """The rows without the system columns, whatever they hold now."""
        return without_stamps(self.stamped())

    def stamped(self) -> pl.DataFrame:
        """The rows as they are in the file, system columns included, unverified.

        Raises
        ------
        DamagedPartition
            When it cannot be read.
        """
        return _read(self.address)


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
            raise NotAKey(f"not a partition key of table {name!r}: {key!r}; expected one or more plain folder names")
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
        write = partial(_write_parquet, stamped, metadata=metadata)
        if table(name).versioned:
            self._keep_current(name, key)
            write = partial(_write_and_keep, write, _version_address(published))
        publish_file(published.address, write)
        return published

    def _keep_current(self, name: str, key: tuple[str, ...]) -> None:
        """Keep what is about to be replaced, where it was published before versions were kept."""
        try:
            current = self.partition(name, key)
        except (MissingPartition, DamagedPartition):
            return
        _link(current.address, _version_address(current))

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
            return reference(address)
        except FileNotFoundError:
            raise MissingPartition(
                f"table {name!r} has no partition {'/'.join(key)} (expected {address}); materialise it first"
            ) from None

    def version(self, name: str, key: tuple[str, ...], data_version: str, run_id: str | None = None) -> TablePartition:
        """The reference of one version of a partition, the newest or an old one.

        Where several runs published the same rows and ``run_id`` is None, it is any of them.

        Raises
        ------
        MissingPartition
            When its bytes are not kept.
        DamagedPartition
            When they are, and do not say what they are.
        """
        address = self.address(name, key)
        for path in sorted((address.parent / _VERSIONS).glob(f"{data_version}--{run_id or '*'}.parquet")):
            return reference(path)
        with contextlib.suppress(MissingPartition):
            current = self.partition(name, key)  # published before versions were kept
            if current.data_version == data_version and run_id in (None, current.run_id):
                return current
        raise MissingPartition(
            f"version {data_version[:12]} of table {name!r}, partition {'/'.join(key)}"
            f"{f', of run {run_id}' if run_id else ''}, is not kept (expected in {address.parent / _VERSIONS})"
        )

    def partitions(self, name: str) -> list[TablePartition]:
        """Every published partition of a table, in the order of their addresses."""
        folder = self.root / name
        keys = [path.parent.relative_to(folder).parts for path in sorted(folder.rglob(_FILE)) if path.is_file()]
        return [self.partition(name, key) for key in keys if key]

    def every_version(self, name: str) -> list[TablePartition]:
        """Every version that is kept of every partition of a table; the newest ones are among them."""
        kept = [reference(path) for path in sorted((self.root / name).rglob(f"{_VERSIONS}/*.parquet"))]
        known = {(each.asset, each.partition, each.data_version, each.run_id) for each in kept}
        newest = self.partitions(name)
        return kept + [
            each for each in newest if (each.asset, each.partition, each.data_version, each.run_id) not in known
        ]

    def scan(self, name: str) -> pl.DataFrame:
        """All rows of a table, system columns included."""
        table(name)
        files = sorted(path for path in (self.root / name).rglob(_FILE) if path.is_file())
        if not files:
            return table(name).empty()
        return pl.concat([_read(path) for path in files], how="diagonal")


def reference(address: Path) -> TablePartition:
    """What the file at an address says that it is.

    Raises
    ------
    FileNotFoundError
        When there is none.
    DamagedPartition
        When it does not say: it was not written by the platform, or damaged.
    """
    try:
        metadata = read_metadata(address)
    except Unreadable as error:
        raise DamagedPartition(f"{address}: {error}; materialise it again") from error
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


def _version_address(version: TablePartition) -> Path:
    return version.address.parent / _VERSIONS / f"{version.data_version}--{version.run_id}.parquet"


def _write_and_keep(write: Callable[[Path], object], kept: Path, draft: Path) -> None:
    """Write a draft and keep it as a version before it is published: no other writer can come between."""
    write(draft)
    _link(draft, kept)


def _link(source: Path, kept: Path) -> None:
    """Give a file that will never change a second name; the same version may be kept already."""
    kept.parent.mkdir(exist_ok=True)
    try:
        kept.hardlink_to(source)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        write_whole(kept, lambda draft: shutil.copyfile(source, draft))  # a file system without hard links


def _read(path: Path) -> pl.DataFrame:
    try:
        return read_parquet(path)[1]
    except Unreadable as error:
        raise DamagedPartition(f"{path}: {error}; materialise it again") from error


def _write_parquet(frame: pl.DataFrame, path: Path, metadata: dict[str, str] | None = None) -> None:
    # Through memory: polars reports a full disk as a malformed file, Python as what it is.
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata)
    path.write_bytes(buffer.getbuffer())
