"""A trace as OpenLineage run events, one JSON object a line, the sources first: what a lineage server takes in.

Each hop that a record tells of is a run of the job of its asset: a START and a COMPLETE event, with what was read and
what was made. When a step began is known of jobs only; elsewhere both events bear the moment of publication. Standard
facets where they fit; content hashes are in a facet of this project. See https://openlineage.io/docs/spec/object-model.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import attr
from openlineage.client import facet_v2 as facets
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import DatasetFacet, RunFacet
from openlineage.client.serde import Serde

from provenance.lineage import FILE, Record
from provenance.tree import Node, Trace
from provenance.views.explained import kind_of
from provenance.views.levels import in_reading_order
from provenance.views.names import producer

NAMESPACE = "tracebed"
_FILES = "file"
"""The namespace that OpenLineage's naming gives files of a local file system."""

_RUNS = uuid.UUID("5f0f6d0c-3a55-5d5c-9d5f-7d4b5a1f6a10")
"""Run ids are made of it: one run of Dagster may make several assets, and a run of OpenLineage has one job."""


@attr.define
class ContentDatasetFacet(DatasetFacet):
    """What a version is: the hash of its content, who published it, what its rows say, and whether it still stands."""

    contentHash: str = attr.field()
    publishedBy: str | None = attr.field(default=None)
    facts: list[str] | None = attr.field(default=None)
    newest: bool | None = attr.field(default=None)
    superseded: str | None = attr.field(default=None)

    @staticmethod
    def _get_schema() -> str:
        return f"{producer()}:facets:ContentDatasetFacet:1"


@attr.define
class ComputationRunFacet(RunFacet):
    """What computed it: code, configuration, job, node, and the versions of the libraries that decide numbers."""

    codeVersion: str = attr.field()
    gitCommit: str | None = attr.field(default=None)
    job: str | None = attr.field(default=None)
    site: str | None = attr.field(default=None)
    node: str | None = attr.field(default=None)
    versions: dict[str, str] | None = attr.field(default=None)
    config: dict[str, Any] | None = attr.field(default=None)

    @staticmethod
    def _get_schema() -> str:
        return f"{producer()}:facets:ComputationRunFacet:1"


def as_openlineage(trace: Trace) -> str:
    """The events as lines of JSON."""
    return "".join(Serde.to_json(each) + "\n" for each in events(trace))


def events(trace: Trace) -> Iterator[RunEvent]:
    """The events, of the sources before those of what was made from them."""
    for node in reversed(in_reading_order(trace)):
        if node.record is None:
            continue
        ended = (node.job or {}).get("ended_at") or node.record.recorded_at
        began = (node.job or {}).get("started_at") or ended
        inputs = [InputDataset(*_name(read), facets=_dataset(read)) for read in _read(trace, node)]
        outputs = [OutputDataset(*_name(node), facets=_dataset(node))]
        run = Run(_run_id(node.record), facets=_run(node, node.record))
        job = Job(NAMESPACE, node.asset, facets=_job(node, node.record))
        for state, moment in ((RunState.START, began), (RunState.COMPLETE, ended)):
            yield RunEvent(
                eventTime=moment.isoformat(),
                eventType=state,
                run=run,
                job=job,
                inputs=inputs,
                outputs=outputs,
                producer=producer(),
            )


def _read(trace: Trace, node: Node) -> list[Node]:
    return [trace.nodes[each] for each in dict.fromkeys(edge.node for edge in node.inputs)]


def _name(node: Node) -> tuple[str, str]:
    if node.asset == FILE:
        return _FILES, node.address
    return NAMESPACE, f"{node.asset}/{node.partition}" if node.partition else node.asset


def _run_id(record: Record) -> str:
    return str(uuid.uuid5(_RUNS, f"{record.run_id} {record.asset} {record.partition} {record.content_hash}"))


def _run(node: Node, record: Record) -> dict[str, RunFacet]:
    job = node.job or {}
    told: dict[str, RunFacet] = {
        "tracebed_computation": ComputationRunFacet(
            codeVersion=record.code_version,
            gitCommit=record.git_commit,
            job=record.job_key,
            site=job.get("site"),
            node=record.node,
            versions=dict(record.versions),
            config=dict(record.config) if record.config else None,
            producer=producer(),
        ),
    }
    if "dagster" in record.versions:
        told["processing_engine"] = facets.processing_engine_run.ProcessingEngineRunFacet(
            version=record.versions["dagster"], name="dagster", producer=producer()
        )
    if _is_uuid(record.run_id):
        told["parent"] = facets.parent_run.ParentRunFacet(
            run=facets.parent_run.Run(record.run_id),
            job=facets.parent_run.Job(NAMESPACE, "dagster"),
            producer=producer(),
        )
    return told


def _job(node: Node, record: Record) -> dict[str, facets.JobFacet]:
    told: dict[str, Any] = {
        "jobType": facets.job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="DAGSTER", jobType="ASSET", producer=producer()
        ),
        "documentation": facets.documentation_job.DocumentationJobFacet(
            description=kind_of(node).meaning, producer=producer()
        ),
    }
    if record.git_commit:
        told["sourceCodeLocation"] = facets.source_code_location_job.SourceCodeLocationJobFacet(
            type="git", url=producer(), version=record.git_commit, producer=producer()
        )
    return told


def _dataset(node: Node) -> dict[str, DatasetFacet]:
    return {
        "version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=node.content_hash, producer=producer()
        ),
        "datasetType": facets.dataset_type_dataset.DatasetTypeDatasetFacet(
            datasetType="FILE" if node.asset == FILE else "TABLE", producer=producer()
        ),
        "documentation": facets.documentation_dataset.DocumentationDatasetFacet(
            description=kind_of(node).meaning, producer=producer()
        ),
        "tracebed_content": ContentDatasetFacet(
            contentHash=node.content_hash,
            publishedBy=node.run_id,
            facts=[f"{each.label}: {each.text}" for each in node.facts],
            newest=node.newest,
            superseded=node.superseded or None,
            producer=producer(),
        ),
    }


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
