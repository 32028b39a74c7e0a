"""How assets meet tables: inputs arrive as references, outputs are checked, recorded and published.

An asset `spatial/embedding/pca` writes table `embedding` under `pca/<partition>`; an input is a `TablePartition` (a
reference: reading the rows is the asset's choice), or a dict of them where several partitions are read. Whatever was
loaded for a step becomes the lineage of what the step publishes. See Dagster's page "Defining a custom I/O manager".
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
)
from pydantic import PrivateAttr

from home import Home
from io_managers.addresses import partition_key, table_of
from io_managers.artifacts import ArtifactStore
from io_managers.content import content_hash
from io_managers.schemas import table
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition, TableStore
from provenance.lineage import LINEAGE_METADATA, THIS_HOST, Input, Origin, Record, record
from provenance.records import UnknownValue
from provenance.selection import Ambiguous
from provenance.trace import trace
from provenance.tree import Node
from provenance.views.markdown import as_markdown, direct_inputs
from resources.artifact_server import artifact_url


class LostUpdate(RuntimeError):
    """A merged partition that another run has published in the meantime."""


_LEADERBOARDS = frozenset({"benchmark_spatial", "benchmark_policy", "benchmark_policy_pairs"})
_METRICS = _LEADERBOARDS | {"success_rate", "niche_query", "niche_figure", "videos", "diagnosis"}
"""Tables whose materialisations show where their values come from."""

_EVENTS = 20
"""How many events of a partition are looked through for the one of a run, the newest first."""

SKIP_MISSING = {"missing": "skip"}
"""Input metadata: load, as a dict, those partitions that exist (the asset must say which were not there)."""


@dataclass(frozen=True)
class Rows:
    """What an asset publishes: a frame, and what Dagster cannot know of how it came to be.

    Attributes
    ----------
    files : inputs beside those that Dagster loaded.
    job_key, node, versions : job that computed the rows, where, and what decides numbers there; None where the run
        itself did.
    replaces : data version of the partition that these rows were merged with ('' for none); publishing is refused when
        another run has published in the meantime. None where nothing was merged.
    unread : assets that Dagster loaded although these rows were not made from them.
    """

    frame: pl.DataFrame
    files: Sequence[Input] = field(default=())
    job_key: str | None = None
    node: str | None = None
    versions: Mapping[str, str] | None = None
    replaces: str | None = None
    unread: Collection[str] = ()


def materialised(
    rows: Rows, metadata: Mapping[str, Any] | None = None, checks: Sequence[dg.AssetCheckResult] = ()
) -> dg.MaterializeResult[Rows]:
    """The result of an asset of one partition a run: its data version is the content hash of its rows."""
    return dg.MaterializeResult(
        value=rows,
        metadata={**(metadata or {}), "dagster/row_count": rows.frame.height},
        data_version=dg.DataVersion(content_hash(rows.frame)),
        check_results=list(checks),
    )


def _no_inputs() -> dict[tuple[str, str], list[Input]]:
    return defaultdict(list)


def _as_input(data_version: str) -> str:
    """How Dagster writes the version of one partition of a partitioned input."""
    return hashlib.sha256(data_version.encode()).hexdigest()


class TableIOManager(dg.ConfigurableIOManager):
    """Loads references of table partitions, and publishes frames with their lineage."""

    home: str
    _loaded: dict[tuple[str, str], list[Input]] = PrivateAttr(default_factory=_no_inputs)

    @property
    def store(self) -> TableStore:
        """The tables of this home."""
        return TableStore(self.home_folders().tables)

    @property
    def artifacts(self) -> ArtifactStore:
        """The artifacts of this home."""
        return ArtifactStore(self.home_folders().artifacts)

    def home_folders(self) -> Home:
        """The home that the tables belong to."""
        from pathlib import Path

        return Home(Path(self.home))

    def own_partition(self, context: dg.AssetExecutionContext) -> TablePartition:
        """What the running asset published before in the partition of this run.

        Raises
        ------
        MissingPartition
            When it never did.
        """
        partition = context.partition_key if context.has_partition_key else ""
        return self.store.partition(*partition_key(context.asset_key.to_user_string(), partition))

    def load_input(self, context: dg.InputContext) -> TablePartition | dict[str, TablePartition]:
        """The reference of the upstream partition, or a dict of them where the input is annotated as one."""
        asset = context.asset_key.to_user_string()
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else [""]
        skip_missing = (context.definition_metadata or {}).get("missing") == "skip"
        found = {}
        for key in keys:
            try:
                found[key] = self.store.partition(*partition_key(asset, key))
            except MissingPartition:
                if not skip_missing:
                    raise
        step = context.step_context
        self._loaded[step.run_id, step.step.key] += [Input.of(each) for each in found.values()]
        if skip_missing or getattr(context.dagster_type.typing_type, "__origin__", None) is dict:
            return found
        if len(found) != 1:
            raise dg.DagsterInvariantViolationError(
                f"input {context.name!r} reads {len(keys)} partitions of {asset}; "
                "annotate it as dict[str, TablePartition]"
            )
        return next(iter(found.values()))

    def handle_output(self, context: dg.OutputContext, obj: Rows) -> None:
        """Publish the rows of one partition."""
        if not isinstance(obj, Rows):
            raise TypeError(f"{context.asset_key.to_user_string()} returned {type(obj).__name__}, expected Rows")
        step = context.step_context
        code_version = context.step_context.job_def.asset_layer.get(context.asset_key).code_version
        partition = context.asset_partition_key if context.has_asset_partitions else ""
        loaded = self._loaded.pop((step.run_id, step.step.key), [])
        inputs = [*(each for each in loaded if each.asset not in obj.unread), *obj.files]
        origin = Origin(code_version or "", obj.job_key, obj.node or THIS_HOST, step.op_config, obj.versions)
        published, lineage = self._publish(context.asset_key, partition, obj, context.run_id, inputs, origin)
        context.add_output_metadata(
            _event_metadata(published, lineage) | self._trace_entry(published, lineage, step.instance)
        )

    def publish_each(
        self, context: dg.AssetExecutionContext, rows: Mapping[str, tuple[Rows, TablePartition]]
    ) -> Iterator[dg.AssetMaterialization]:
        """Publish several partitions in one run, each with the data version of its own content.

        ``rows`` maps a partition key to its rows and to the one input partition that they were made from. Dagster
        gives all partitions of a single-run range ONE data version; the events that this yields replace its own, so
        the asset must be declared with ``output_required=False`` and yield no output.
        """
        code_version = context.assets_def.code_versions_by_key[context.asset_key] or ""
        for partition, (each, source) in rows.items():
            self._loaded.pop((context.run_id, context.op_execution_context.get_step_execution_context().step.key), None)
            inputs = [Input.of(source), *each.files]
            config = context.op_execution_context.op_config
            origin = Origin(code_version, each.job_key, each.node or THIS_HOST, config, each.versions)
            published, lineage = self._publish(context.asset_key, partition, each, context.run_id, inputs, origin)
            yield dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=partition,
                metadata={**_event_metadata(published, lineage), "dagster/row_count": each.frame.height},
                tags={
                    DATA_VERSION_TAG: published.data_version,
                    DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                    CODE_VERSION_TAG: code_version,
                    get_input_data_version_tag(dg.AssetKey(source.asset.split("/"))): _as_input(source.data_version),
                },
            )

    def _trace_entry(
        self, published: TablePartition, lineage: Record, instance: dg.DagsterInstance
    ) -> dict[str, dg.MetadataValue]:
        """Where a metric came from, for the UI. What cannot be traced is said, and fails no run."""
        name, _ = table_of(published.asset)
        if name not in _METRICS:
            return {}
        try:
            found = (
                direct_inputs(lineage)
                if name in _LEADERBOARDS
                else trace(self.home_folders(), published.asset, published.partition, at=published.run_id, verify=False)
            )
        except (UnknownValue, Ambiguous, MissingPartition, DamagedPartition) as problem:
            return {"trace": dg.MetadataValue.md(f"There is no trace: {problem}")}
        shown = as_markdown(found, artifact_url=artifact_url, moment=partial(_moment, instance, lineage.recorded_at))
        return {"trace": dg.MetadataValue.md(shown)}

    def _refuse_if_replaced(self, name: str, key: tuple[str, ...], expected: str) -> None:
        try:
            found = self.store.partition(name, key).data_version
        except MissingPartition:
            found = ""
        if found != expected:
            raise LostUpdate(
                f"another run published {'/'.join((name, *key))} while this one worked, and its rows would be lost; "
                "nothing was published: materialise again, what was computed is kept"
            )

    def _publish(
        self,
        asset: dg.AssetKey,
        partition: str,
        rows: Rows,
        run_id: str,
        inputs: Sequence[Input],
        origin: Origin,
    ) -> tuple[TablePartition, Record]:
        asset_name = asset.to_user_string()
        name, key = partition_key(asset_name, partition)
        if rows.replaces is not None:
            self._refuse_if_replaced(name, key, rows.replaces)
        frame = table(name).conform(rows.frame)
        planned = TablePartition(asset_name, partition, content_hash(frame), run_id, self.store.address(name, key))
        lineage = record(self.store, planned, inputs, origin)
        published = self.store.publish(name, key, frame, asset=asset_name, partition=partition, run_id=run_id)
        return published, lineage


def _moment(instance: dg.DagsterInstance, now: datetime, node: Node) -> int | None:
    """A moment at which the page of an asset shows the materialisation of a version, in milliseconds.

    What is published now is shown now; an older version when Dagster logged it, None where it knows none of it.
    """
    if node.current:
        return int(now.timestamp() * 1000)
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(node.asset.split("/")),
        asset_partitions=[node.partition] if node.partition else None,
        after_timestamp=node.record.recorded_at.timestamp() if node.record else None,
    )
    events = instance.fetch_materializations(wanted, limit=_EVENTS).records
    return next((int(each.timestamp * 1000) for each in events if each.run_id == node.run_id), None)


def _event_metadata(published: TablePartition, lineage: Record) -> dict[str, dg.MetadataValue]:
    """What the materialisation's event carries: the lineage too, so that a lost table can be rebuilt from the log."""
    return {
        "path": dg.MetadataValue.path(str(published.address)),
        LINEAGE_METADATA: dg.MetadataValue.json(lineage.described()),
    }
