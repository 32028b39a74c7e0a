"""Reading lineage records back: of one partition without looking at any other, or all of them.

A record lies in `lineage/<asset>/<partition>/<hash>/<run>/`; before that layout, in `lineage/<run>/<asset>/<partition>/
<hash>/`. Both are read. What a record cannot tell any more (it was lost) is for the caller to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from io_managers.parquet_bytes import Unreadable, read_parquet
from io_managers.tables import DamagedPartition, TableStore
from provenance.lineage import Input, Record, record_folder

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_RUN_FOLDER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class UnknownValue(ValueError):
    """A value of which there is no record: an unknown asset, partition, time or run."""


@dataclass(frozen=True)
class Records:
    """The lineage records of a home."""

    store: TableStore

    def of(self, asset: str, partition: str) -> list[Record]:
        """All records of one partition, oldest first."""
        folder = "/".join(record_folder(asset, partition))
        found = [*(self._root / folder).glob("*/*/data.parquet")]
        for run in self._old_runs():
            found += (run / folder).glob("*/data.parquet")
        return _in_order(_read(path) for path in found)

    def exactly(self, asset: str, partition: str, content_hash: str, run_id: str | None) -> Record | None:
        """The record of one version; None where there is none. The newest where several runs made the same bytes."""
        folder, version = "/".join(record_folder(asset, partition)), content_hash[:16]
        found = [*self._root.glob(f"{folder}/{version}/{run_id or '*'}/data.parquet")]
        for run in self._old_runs() if run_id is None else [self._root / run_id]:
            found += run.glob(f"{folder}/{version}/data.parquet")
        same = [each for each in _in_order(map(_read, found)) if each.content_hash == content_hash]
        return same[-1] if same else None

    def at(self, asset: str, partition: str, when: str) -> Record:
        """The newest record at a moment, or the record of a run (its id, or the beginning of it).

        A moment is ISO 8601, UTC where it names no zone; a day means its end.

        Raises
        ------
        UnknownValue
            Listing what there is.
        """
        known = self.of(asset, partition)
        moment = _moment(when)
        if moment is not None:
            fitting = [each for each in known if each.recorded_at <= moment]
        else:
            fitting = [each for each in known if each.run_id.startswith(when)]
        if not fitting:
            listed = "\n".join(f"  - {_told(each)}" for each in known) or "  - nothing"
            raise UnknownValue(f"found no value of {asset} [{partition}] at {when!r}. There are:\n{listed}")
        if moment is None and len({each.run_id for each in fitting}) > 1:
            listed = "\n".join(f"  - {_told(each)}" for each in fitting)
            raise UnknownValue(f"several runs begin with {when!r}; give more of the id:\n{listed}")
        return fitting[-1]

    def partitions(self, asset: str) -> list[str]:
        """The partitions of an asset that have records."""
        name = record_folder(asset, "")[0]
        folders = [
            *(self._root / name).glob("*/"),
            *(each for run in self._old_runs() for each in (run / name).glob("*/")),
        ]
        first = {folder.name: next(folder.rglob("data.parquet"), None) for folder in folders}
        return sorted(_read(path).partition for path in first.values() if path is not None)

    def assets(self) -> list[str]:
        """The assets that have records."""
        folders = [self._root, *self._old_runs()]
        return sorted(
            {
                path.name.replace(".", "/")
                for folder in folders
                if folder.is_dir()
                for path in folder.iterdir()
                if path.is_dir() and not _RUN_FOLDER.fullmatch(path.name)
            }
        )

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        return _in_order(_read(path) for path in self._root.glob("*/*/*/*/data.parquet"))

    @property
    def _root(self) -> Path:
        return self.store.root / "lineage"

    def _old_runs(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if _RUN_FOLDER.fullmatch(path.name)]


def _moment(when: str) -> datetime | None:
    """The moment that a text names, or None where it names none."""
    if _DAY.match(when) is None:
        return None
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        return None
    if len(when) == len("2026-01-31"):  # a day: what was published on it counts
        moment += timedelta(days=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _told(each: Record) -> str:
    return f"{each.recorded_at:%Y-%m-%dT%H:%M:%S} UTC, run {each.run_id}, content {each.content_hash[:12]}"


def _in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda each: (each.recorded_at, each.run_id))


def _read(path: Path) -> Record:
    try:
        rows = read_parquet(path)[1].to_dicts()
    except Unreadable as error:
        raise DamagedPartition(
            f"{path}: {error}; move it away, and `tracebed lineage rebuild` writes it again from the event log"
        ) from error
    if not rows:
        raise DamagedPartition(f"{path} is a lineage record without rows; `tracebed lineage rebuild` writes it again")
    first = rows[0]
    inputs = tuple(
        Input(row["input_asset"], row["input_partition"], row["input_hash"], row["input_run_id"], row["input_address"])
        for row in rows
        if row["input_asset"] is not None
    )
    config = first.get("config")
    return Record(
        first["asset"],
        first["partition"],
        first["content_hash"],
        first["run_id"],
        first["address"],
        first["code_version"],
        first["git_commit"],
        json.loads(first["versions"]),
        None if config is None else json.loads(config),
        first["job_key"],
        first["node"],
        first["recorded_at"],
        inputs,
    )
