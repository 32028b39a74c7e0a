"""The Parquet files of the tables: what each says that it is, and whether its rows are those that were published.

A file is read in one piece, so that a partition that is replaced meanwhile is seen whole, old or new. What this cannot
see: a changed byte that holds no value (statistics, page indices, unused space), since a data version is a hash of
values.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from io_managers.addresses import partition_key, table_of
from io_managers.content import content_hash
from io_managers.parquet_bytes import Unreadable, read_parquet, without_stamps
from io_managers.schemas import SYSTEM_COLUMNS, TABLES
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.findings import Finding, Kind

Version = tuple[str, str, str, str]
"""One publication: asset, partition, data version, run id."""

FILE_NAME, VERSIONS_FOLDER = "data.parquet", "versions"
SIDE_TABLES = frozenset({"lineage", "train_attempts", "train_curve", "embedding_attempts"})
"""Tables that assets write beside their own, without lineage: their keys are free."""

_ARTIFACT = re.compile(r"[0-9a-f]{64}(\.[^/]+)?")
_SYSTEM_NAMES = [column.name for column in SYSTEM_COLUMNS]


@dataclass(frozen=True, slots=True)
class TableFile:
    """One Parquet file of a table.

    Attributes
    ----------
    path, table, key : where it lies; ``key`` are the folders below the table.
    kept : it is an old or new version in `versions/`, not the published file itself.
    inode : device and inode: the newest version has two names.
    asset, partition, data_version, run_id : what it says that it is; empty where it is damaged.
    content_hash : hash of the rows that it holds.
    artifacts : names that its rows point to.
    problem : why it cannot be read or does not say what it is; empty where it does.
    """

    path: str
    table: str
    key: tuple[str, ...]
    kept: bool
    inode: tuple[int, int]
    asset: str = ""
    partition: str = ""
    data_version: str = ""
    run_id: str = ""
    content_hash: str = ""
    artifacts: tuple[str, ...] = ()
    problem: str = ""

    @property
    def version(self) -> Version:
        """The publication that it says that it is."""
        return self.asset, self.partition, self.data_version, self.run_id

    @property
    def of_an_asset(self) -> bool:
        """Whether an asset's rows are in it, of which there must be a lineage record (a registration has none)."""
        return "/" in self.asset and self.table not in SIDE_TABLES

    @property
    def is_newest(self) -> bool:
        """Whether it is what is published."""
        return not self.kept and not self.problem


def parquet_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every Parquet file below a folder that is no draft; the folder's own file, which holds no rows, is left out."""
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.name.endswith(".parquet") and not entry.name.startswith(".") and place != str(folder):
                yield entry


def read_tables(root: Path, memory: Memory) -> list[TableFile]:
    """Every file of every table but `lineage`."""
    found = []
    for name in TABLES:
        folder = root / name
        for entry in parquet_files(folder) if name != "lineage" else ():
            parts = tuple(entry.path[len(str(folder)) + 1 :].split("/"))
            kept = parts[-2] == VERSIONS_FOLDER
            if not kept and entry.name != FILE_NAME:
                continue
            try:
                status = entry.stat()
                said = json.loads(memory.recall(entry.path, _read, status))
            except FileNotFoundError:
                continue  # removed meanwhile
            said["artifacts"] = tuple(said.get("artifacts", ()))
            key = parts[:-2] if kept else parts[:-1]
            found.append(TableFile(entry.path, name, key, kept, (status.st_dev, status.st_ino), **said))
    return found


def _read(path: str) -> str:
    try:
        metadata, frame = read_parquet(path)
    except Unreadable as error:
        return json.dumps({"problem": str(error)})
    said = {name: metadata.get(f"tracebed.{name}") for name in ("asset", "partition", "data_version", "run_id")}
    if lacking := [name for name, value in said.items() if value is None]:
        return json.dumps({"problem": f"it lacks the platform's metadata ({', '.join(lacking)})"})
    if lacking := [name for name in _SYSTEM_NAMES if name not in frame.columns]:
        return json.dumps({"problem": f"it lacks the columns {', '.join(lacking)}"})
    for name in _SYSTEM_NAMES:
        if frame.height and set(frame[name].to_list()) != {said[name]}:
            said["content_hash"] = f"none: its column {name} is not {said[name]}"
    try:
        said.setdefault("content_hash", content_hash(without_stamps(frame)))
    except TypeError as error:
        said["content_hash"] = f"none: {error}"
    texts = [each for each in frame.get_columns() if each.name.endswith("_artifact") and each.dtype == pl.String]
    names = {name for each in texts for name in each.to_list()}
    return json.dumps(said | {"artifacts": sorted(name for name in names if name and _ARTIFACT.fullmatch(name))})


Names = Mapping[tuple[str, tuple[str, ...]], tuple[str, str]]
"""Table and key -> asset and partition: of a file that does not say itself what it is."""


def tables_as_published(files: Sequence[TableFile], names: Names) -> Iterator[Finding]:
    """Files that are not what was published."""
    published = {each.inode: each for each in files if not each.kept}
    for each in files:
        if each.kept and each.inode in published:
            continue  # the newest version, which is told once
        if each.problem:
            yield _damaged(each, names)
        elif each.content_hash != each.data_version:
            yield _edited(each, _others(each, files))
        elif expected := _misplaced(each):
            yield Finding(
                Kind.MISPLACED_TABLE,
                each.asset,
                each.partition,
                each.path,
                f"a file that says that it is {each.asset} [{each.partition}], version {each.data_version[:12]} of "
                f"run {each.run_id}",
                expected,
                "it was copied or moved by hand: move it back, or materialise what belongs here",
            )


def _damaged(each: TableFile, names: Names) -> Finding:
    asset, partition = names.get((each.table, each.key), (f"table {each.table}", "/".join(each.key)))
    return Finding(
        Kind.DAMAGED_TABLE,
        asset,
        partition,
        each.path,
        each.problem,
        f"a Parquet file that says which partition of table {each.table} it is",
        _restore(each, "it was damaged, or written by another tool"),
    )


def _edited(each: TableFile, others: list[TableFile]) -> Finding:
    cure = _restore(each, "its rows were edited after publication")
    if others:
        cure = f"its rows were edited after publication; {others[0].path} still holds them: copy that file here"
    return Finding(
        Kind.EDITED_TABLE,
        each.asset,
        each.partition,
        each.path,
        f"rows with content hash {each.content_hash}",
        f"{each.data_version}, the data version that run {each.run_id} published",
        cure,
    )


def _others(edited: TableFile, files: Sequence[TableFile]) -> list[TableFile]:
    """Undamaged files of the same publication."""
    return [
        each
        for each in files
        if each.version == edited.version and each.content_hash == each.data_version and each.inode != edited.inode
    ]


def _restore(each: TableFile, why: str) -> str:
    if each.kept:
        return f"{why}; it is an old version: take it from a backup, or delete it where nothing needs it any more"
    return f"{why}: take it from a backup or from {VERSIONS_FOLDER}/ beside it, or materialise it again"


def _misplaced(each: TableFile) -> str:
    """What belongs where a file lies, where that is something else; else empty."""
    if each.kept and Path(each.path).stem != f"{each.data_version}--{each.run_id}":
        return f"the version and run of its name, {Path(each.path).stem}"
    if each.table in SIDE_TABLES:
        return ""
    if table_of(each.asset)[0] != each.table:
        return f"a partition of table {each.table}"
    if partition_key(each.asset, each.partition)[1] != each.key:
        return f"the partition of table {each.table} that lies under {'/'.join(each.key)}"
    return ""
