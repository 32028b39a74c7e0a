"""What is replayed: one published value, its record, its rows, and the asset that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from home import Home
from io_managers.addresses import partition_key, table_of
from io_managers.artifacts import ArtifactStore
from io_managers.columns import TableSchema
from io_managers.schemas import TABLES, table
from io_managers.tables import MissingPartition, TablePartition, TableStore
from provenance.lineage import Record
from provenance.records import Records, UnknownValue
from replay.refusals import ReplayRefused

if TYPE_CHECKING:
    import dagster as dg

NOT_REPLAYABLE: Mapping[str, str] = {
    "section_source": "a registration, made by `tracebed section add` and by no asset",
    "embedding_attempts": "a log that encoders and embeddings keep; replay the encoder or the embedding",
    "train_attempts": "a log that trainings keep; replay policy/checkpoint/<policy>",
    "train_curve": "a log that trainings keep; replay policy/checkpoint/<policy>",
    "lineage": "the record itself",
    "jobs": "a report on the jobs of that moment, made from no input that is kept",
    "audit": "a report on what was there at that moment, made from no input that is kept",
    "incident": "a report on what a scheduler said at that moment, made from no input that is kept",
}
"""Tables of which no value can be computed again, and why."""


@dataclass(frozen=True)
class Target:
    """One published value.

    Attributes
    ----------
    home : where it was published.
    record : its lineage.
    rows : what was published, verified.
    """

    home: Home
    record: Record
    rows: pl.DataFrame

    @property
    def schema(self) -> TableSchema:
        """The schema of its table, as it is now."""
        return table(table_of(self.record.asset)[0])

    @property
    def artifacts(self) -> ArtifactStore:
        """Where the artifacts lie that its rows point to."""
        return ArtifactStore(self.home.artifacts)

    @property
    def title(self) -> str:
        """Asset and partition."""
        return f"{self.record.asset} [{self.record.partition}]" if self.record.partition else self.record.asset

    def recorded_job(self) -> Mapping[str, Any]:
        """The last submission of the job that computed it (row of table `jobs`); empty where there was none or its
        directory is gone.
        """
        from resources.compute.job_directory import JobDirectory
        from resources.compute.job_table import submission_row

        if self.record.job_key is None:
            return {}
        job = JobDirectory(self.home.jobs / self.record.job_key)
        numbers = job.submissions() if job.path.is_dir() else []
        return submission_row(job, numbers[-1]) if numbers else {}


def find_target(home: Home, asset: str, partition: str = "", at: str | None = None) -> Target:
    """The newest value of a partition, or the one ``at`` a moment or of a run.

    Raises
    ------
    UnknownValue
        For an asset, partition, moment or run of which there is no record; lists what there is.
    ReplayRefused
        For a table that no asset makes, or a value whose record or rows are lost.
    DamagedPartition
        When its rows are not those that were published.
    """
    name, _ = table_of(asset)
    if name in NOT_REPLAYABLE:
        raise ReplayRefused(f"{asset} cannot be replayed: it is {NOT_REPLAYABLE[name]}")
    store = TableStore(home.tables)
    records = Records(store)
    if not records.of(asset, partition):
        raise UnknownValue(_unknown(records, asset, partition))
    if name not in TABLES:
        raise ReplayRefused(f"the table {name!r} of {asset} is none of this platform's")
    record = records.at(asset, partition, at) if at is not None else _newest(store, records, asset, partition)
    try:
        published = store.version(*partition_key(asset, partition), record.content_hash, record.run_id)
    except MissingPartition as missing:
        raise ReplayRefused(f"what was published is not kept, so nothing can be compared: {missing}") from missing
    return Target(home, record, published.frame())


def _newest(store: TableStore, records: Records, asset: str, partition: str) -> Record:
    try:
        current: TablePartition = store.partition(*partition_key(asset, partition))
    except MissingPartition as missing:
        raise ReplayRefused(f"nothing is published there now ({missing}); name an older value with --at") from missing
    record = records.exactly(asset, partition, current.data_version, current.run_id)
    if record is None:
        raise ReplayRefused(
            f"the lineage record of the newest value (run {current.run_id}) is lost, so what it was made from is not "
            "known; `tracebed lineage rebuild` looks for it in the event log, or name an older value with --at"
        )
    return record


def _unknown(records: Records, asset: str, partition: str) -> str:
    partitions = records.partitions(asset)
    if not partitions:
        known = "\n".join(f"  - {each}" for each in records.assets()) or "  - nothing"
        return f"found asset {asset!r}, expected one that was materialised here:\n{known}"
    listed = ", ".join(each or "(none: it has no partitions)" for each in partitions)
    return f"found partition {partition!r} of {asset}, expected one that was materialised: {listed}"


def definition_of(definitions: dg.Definitions, asset: str) -> dg.AssetsDefinition:
    """The asset as it is defined now.

    Raises
    ------
    ReplayRefused
        When it is not: its variant or policy was taken away.
    """
    import dagster as dg

    key = dg.AssetKey.from_user_string(asset)
    if not definitions.resolve_asset_graph().has(key):
        raise ReplayRefused(
            f"{asset} is no asset of the present code: its variant, policy or base was taken out of encoders.toml, the "
            "installed policies or bases.toml; put it back, as it was, to replay what it made"
        )
    return definitions.resolve_assets_def(key)
