"""Homes with many thousand materialisations: tables, lineage records, and Dagster's event log, all as real ones.

    home, instance = make_home(path, 10_000)

One of each kind of file and event is made by the platform and by Dagster; every other is a copy of its bytes with the
names, hashes and times replaced (Parquet has no checksums, and every replacement is as long as what it replaces). A
series is six assets, and its figure stands on its section over five hops.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
from dagster import AssetKey, DagsterRun, DagsterRunStatus
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
)
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster_shared.serdes import serialize_value

from home import Home
from io_managers.addresses import partition_key
from io_managers.catalog import ensure_catalog
from io_managers.content import hashed_bytes
from io_managers.schemas import SYSTEM_COLUMNS, table
from io_managers.tables import TableStore
from partitions import SECTIONS, TARGET_SECTIONS
from provenance.audit.agreement import noted
from provenance.lineage import LINEAGE_METADATA, Input, Record, library_versions, record_key, write_record

SERIES: dict[str, tuple[str, ...]] = {
    "spatial/section": (),
    "spatial/section_as_target": ("spatial/section",),
    "spatial/embedding/pca": ("spatial/section",),
    "spatial/rm_ideal": ("spatial/section", "spatial/section_as_target"),
    "spatial/niche_query/pca": ("spatial/rm_ideal", "spatial/embedding/pca", "spatial/section_as_target"),
    "spatial/niche_figure/pca": ("spatial/niche_query/pca",),
}
"""Asset -> what it reads, of the same series."""

SERIES_A_RUN = 100
_KEY, _RUN = "s@@@@@@@", "@@@@@@@@-@@@@-@@@@-@@@@-@@@@@@@@@@@@"
_MOMENT_US = 1_234_567_890_123_456
_FIRST_US, _STEP_US = 1_700_000_000_000_001, 1_000_003


def make_home(path: Path, n: int) -> tuple[Home, dg.DagsterInstance]:
    """A home with about ``n`` materialisations (whole series of six), each with its rows, record and event."""
    home = Home(path)
    ensure_catalog(home)
    instance = dg.DagsterInstance.from_config(str(home.dagster))
    series = max(1, n // len(SERIES))
    keys = [f"s{number:07d}" for number in range(series)]
    for definition in (SECTIONS, TARGET_SECTIONS):
        instance.add_dynamic_partitions(definition.name or "", keys)
    templates = [_Template.of(home, asset) for asset in SERIES]
    for first in range(0, series, SERIES_A_RUN):
        run_id = _uuid(first)
        instance.add_run(DagsterRun(job_name="synthetic", run_id=run_id, status=DagsterRunStatus.SUCCESS))
        rows = []
        for number in range(first, min(first + SERIES_A_RUN, series)):
            versions: dict[str, str] = {}
            for step, template in enumerate(templates):
                made = _Made(keys[number], run_id, _FIRST_US + (number * len(SERIES) + step) * _STEP_US, versions)
                rows.append(template.publish(home, made))
        _store(instance, run_id, rows)
    return home, instance


@dataclass(frozen=True)
class _Made:
    """What is replaced in one materialisation; ``versions`` are those of its series so far."""

    key: str
    run_id: str
    moment_us: int
    versions: dict[str, str]

    def of(self, content: bytes) -> bytes:
        for asset, version in self.versions.items():
            content = content.replace(_placeholder(asset).encode(), version.encode())
        moment = self.moment_us.to_bytes(8, "little")
        content = content.replace(_MOMENT_US.to_bytes(8, "little"), moment)
        return content.replace(_KEY.encode(), self.key.encode()).replace(_RUN.encode(), self.run_id.encode())


@dataclass(frozen=True)
class _Template:
    """One asset's files and event, with placeholders.

    Attributes
    ----------
    hashed, record_hashed : the bytes whose hash is the data version of its rows, and of its record.
    rows, record : the Parquet files.
    event : the row of the event log, without its tags of input versions.
    """

    asset: str
    partition: str
    hashed: bytes
    rows: bytes
    record_hashed: bytes
    record: bytes
    event: str

    @classmethod
    def of(cls, home: Home, asset: str) -> _Template:
        partition = _partition(asset)
        name, key = partition_key(asset, partition)
        frame = _frame(name)
        store = TableStore(home.tables)
        address = store.address(name, key)
        inputs = tuple(
            Input(each, _partition(each), _placeholder(each), _RUN, _address(store, each)) for each in SERIES[asset]
        )
        record = Record(
            asset,
            partition,
            _placeholder(asset),
            _RUN,
            str(address),
            "1",
            None,
            library_versions(),
            None,
            None,
            "synthetic",
            datetime.fromisoformat(_moment_text(_MOMENT_US)),
            inputs,
        )
        published = _written_record(home, record)
        return cls(
            asset,
            partition,
            b"".join(hashed_bytes(frame)),
            _parquet(frame, asset, partition, _placeholder(asset)),
            b"".join(hashed_bytes(published)),
            _parquet(published, asset, partition, _placeholder("record")),
            _event(record),
        )

    def publish(self, home: Home, made: _Made) -> tuple[str, str, str, str, datetime]:
        """Write the files; returns the event's row."""
        version = hashlib.sha256(made.of(self.hashed)).hexdigest()
        made.versions[self.asset] = version
        partition = self.partition.replace(_KEY, made.key)
        name, key = partition_key(self.asset, partition)
        store = TableStore(home.tables)
        address = store.address(name, key)
        kept = address.parent / "versions" / f"{version}--{made.run_id}.parquet"
        kept.parent.mkdir(parents=True)
        address.write_bytes(made.of(self.rows))
        os.link(address, kept)
        record_version = hashlib.sha256(made.of(self.record_hashed)).hexdigest()
        record = store.address("lineage", record_key(self.asset, partition, version, made.run_id))
        record.parent.mkdir(parents=True)
        record.write_bytes(made.of(self.record).replace(_placeholder("record").encode(), record_version.encode()))
        text = made.of(self.event.encode()).decode()
        for upstream in SERIES[self.asset]:
            read = Input(upstream, _partition(upstream), made.versions[upstream], None, "")
            text = text.replace(_placeholder(f"noted {upstream}"), noted([read]))
        at = datetime.fromtimestamp(made.moment_us / 1e6, UTC)
        text = text.replace(f"{_MOMENT_US / 1e6!r}", f"{made.moment_us / 1e6!r}")
        text = text.replace(_moment_text(_MOMENT_US), _moment_text(made.moment_us))
        return text, json.dumps(self.asset.split("/")), partition, version, at


def _partition(asset: str) -> str:
    paired = asset.split("/")[1] in ("rm_ideal", "niche_query", "niche_figure")
    return f"{_KEY}|{_KEY}" if paired else _KEY


def _address(store: TableStore, asset: str) -> str:
    return str(store.address(*partition_key(asset, _partition(asset))))


def _placeholder(asset: str) -> str:
    """A text as long as a hash, and found nowhere else."""
    return hashlib.sha256(f"placeholder {asset}".encode()).hexdigest()


def _moment_text(moment_us: int) -> str:
    whole = datetime.fromtimestamp(moment_us // 10**6, UTC).replace(microsecond=moment_us % 10**6)
    return whole.isoformat()


def _frame(name: str) -> pl.DataFrame:
    """One row of a table: the key in its texts, so that every partition has a version of its own."""
    plain = {pl.String: _KEY, pl.Int64: 1, pl.Float64: 0.5, pl.Boolean: True, pl.List: []}
    columns = table(name).columns
    row = {each.name: None if each.nullable else plain[type(each.dtype)] for each in columns}
    return pl.DataFrame([row], schema={each.name: each.dtype for each in columns})


def _parquet(frame: pl.DataFrame, asset: str, partition: str, version: str) -> bytes:
    import io

    stamps = dict(zip([each.name for each in SYSTEM_COLUMNS], (_RUN, version), strict=True))
    metadata = {"asset": asset, "partition": partition, "data_version": version, "run_id": _RUN}
    buffer = io.BytesIO()
    stamped = frame.with_columns(pl.lit(value).alias(name) for name, value in stamps.items())
    named = {f"tracebed.{name}": value for name, value in metadata.items()}
    stamped.write_parquet(buffer, compression="uncompressed", metadata=named)
    return buffer.getvalue()


def _written_record(home: Home, record: Record) -> pl.DataFrame:
    """The rows of a record as the platform writes them."""
    scratch = TableStore(home.root / "template")
    write_record(scratch, record)
    key = record_key(record.asset, record.partition, record.content_hash, record.run_id)
    frame = scratch.partition("lineage", key).frame()
    shutil.rmtree(scratch.root)
    return frame


def _event(record: Record) -> str:
    tags = {
        DATA_VERSION_TAG: record.content_hash,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: record.code_version,
        **{
            get_input_data_version_tag(AssetKey(each.asset.split("/"))): _placeholder(f"noted {each.asset}")
            for each in record.inputs
        },
    }
    materialization = dg.AssetMaterialization(
        AssetKey(record.asset.split("/")),
        partition=record.partition,
        tags=tags,
        metadata={
            "path": dg.MetadataValue.path(record.address),
            LINEAGE_METADATA: dg.MetadataValue.json(json.loads(json.dumps(record.described()))),
        },
    )
    event = DagsterEvent(
        DagsterEventType.ASSET_MATERIALIZATION.value,
        "synthetic",
        step_key="synthetic",
        event_specific_data=StepMaterializationData(materialization, []),
    )
    entry = EventLogEntry(
        error_info=None,
        level=10,
        user_message="",
        run_id=_RUN,
        timestamp=_MOMENT_US / 1e6,
        step_key="synthetic",
        job_name="synthetic",
        dagster_event=event,
    )
    return serialize_value(entry)


_INSERT = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
VALUES (?, ?, 'ASSET_MATERIALIZATION', ?, 'synthetic', ?, ?)"""
_TAG = "INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp) VALUES (?, ?, ?, ?, ?)"


def _store(instance: dg.DagsterInstance, run_id: str, rows: Sequence[tuple]) -> None:
    """The events of one run, in the index and in the run's own log."""
    storage = instance.event_log_storage
    index, log = (Path(storage.path_for_shard(shard)) for shard in ("index", run_id))  # type: ignore[attr-defined]
    empty = index.with_name("empty-run-log")
    if not empty.exists():
        with storage.run_connection("template"):  # type: ignore[attr-defined]
            pass
        index.with_name("template.db").rename(empty)
    shutil.copyfile(empty, log)
    events = [(run_id, text, f"{at:%Y-%m-%d %H:%M:%S.%f}", asset, partition) for text, asset, partition, _, at in rows]
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.executemany(_INSERT, events)
    with closing(sqlite3.connect(index)) as connection, connection:
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM event_logs").fetchone()
        connection.executemany(_INSERT, events)
        tags = [
            (last + number, asset, DATA_VERSION_TAG, version, events[number - 1][2])
            for number, (_, asset, _, version, _) in enumerate(rows, start=1)
        ]
        connection.executemany(_TAG, tags)
        keys = [(asset, run_id) for asset in {asset for _, asset, _, _, _ in rows}]
        connection.executemany("INSERT OR REPLACE INTO asset_keys (asset_key, last_run_id) VALUES (?, ?)", keys)


def _uuid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"
