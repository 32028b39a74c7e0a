"""A trace as JSON: everything that it holds, in a structure that stays (`SCHEMA`), and back again.

    {"schema": "tracebed.trace/1",
     "root": id of the node that holds the number,
     "where": {column: text},
     "value": {"columns": {name: type}, "rows": [{column: value}]},
     "superseded": [text], "problems": [text],           # all nodes' together, for a reader
     "nodes": [{"id", "asset", "partition", "content_hash", "run_id", "address", "table", "n_rows", "newest", "current",
                "superseded", "problems": [text],
                "facts": [{"label", "text", "artifact"}],
                "inputs": [{"node": id, "how"}],
                "record": null or {"asset", "partition", "content_hash", "run_id", "address", "code_version",
                                   "git_commit", "versions", "config", "job_key", "node", "recorded_at",
                                   "inputs": [{"asset", "partition", "content_hash", "run_id", "address"}]},
                "job": null or a row of table `jobs`}]}

Moments are ISO 8601 with their offset; types are those of polars. Keys may be added under the same number; a key that
changes its meaning, or goes, raises it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from io_managers.schemas import TABLES
from provenance.facts import Fact
from provenance.lineage import Record
from provenance.tree import Edge, Node, Trace
from provenance.views.explained import table_name

SCHEMA = "tracebed.trace/1"

_TYPES: Mapping[str, pl.DataType] = {
    str(column.dtype): column.dtype for schema in TABLES.values() for column in schema.columns
}
_MOMENTS = ("submitted_at", "started_at", "ended_at")
"""Columns of table `jobs` that are moments."""


def as_json(trace: Trace) -> str:
    """The whole trace as JSON text, indented, the keys in the order of the description above."""
    return json.dumps(described(trace), indent=1, ensure_ascii=False, allow_nan=False)


def described(trace: Trace) -> dict[str, Any]:
    """The whole trace as plain values."""
    return {
        "schema": SCHEMA,
        "root": trace.root,
        "where": dict(trace.where),
        "value": {
            "columns": {name: str(dtype) for name, dtype in trace.value.schema.items()},
            "rows": [{name: _plain(value) for name, value in row.items()} for row in trace.value.to_dicts()],
        },
        "superseded": trace.superseded,
        "problems": trace.problems,
        "nodes": [_node(each) for each in trace.nodes.values()],
    }


def from_json(text: str) -> Trace:
    """The trace that `as_json` gave.

    Raises
    ------
    ValueError
        For another schema than `SCHEMA`.
    """
    content = json.loads(text)
    if content.get("schema") != SCHEMA:
        raise ValueError(f"found a trace of schema {content.get('schema')!r}, expected {SCHEMA!r}")
    nodes = [_read_node(each) for each in content["nodes"]]
    types = {name: _TYPES[told] for name, told in content["value"]["columns"].items()}
    rows = [
        {name: _moment(value) if isinstance(types[name], pl.Datetime) else value for name, value in row.items()}
        for row in content["value"]["rows"]
    ]
    value = pl.DataFrame(rows, schema=types)
    return Trace(content["root"], content["where"], value, {each.id: each for each in nodes})


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "asset": node.asset,
        "partition": node.partition,
        "content_hash": node.content_hash,
        "run_id": node.run_id,
        "address": node.address,
        "table": table_name(node),
        "n_rows": node.n_rows,
        "newest": node.newest,
        "current": node.current,
        "superseded": node.superseded,
        "problems": node.problems,
        "facts": [{"label": each.label, "text": each.text, "artifact": each.artifact} for each in node.facts],
        "inputs": [{"node": each.node, "how": each.how} for each in node.inputs],
        "record": None if node.record is None else node.record.described(),
        "job": None if node.job is None else {name: _plain(value) for name, value in node.job.items()},
    }


def _read_node(content: Mapping[str, Any]) -> Node:
    job, record = content["job"], content["record"]
    return Node(
        id=content["id"],
        asset=content["asset"],
        partition=content["partition"],
        content_hash=content["content_hash"],
        run_id=content["run_id"],
        address=content["address"],
        record=None if record is None else Record.from_described(record),
        job=None if job is None else {name: _moment(job[name]) if name in _MOMENTS else job[name] for name in job},
        n_rows=content["n_rows"],
        facts=[Fact(each["label"], each["text"], each["artifact"]) for each in content["facts"]],
        newest=content["newest"],
        current=content["current"],
        superseded=content["superseded"],
        problems=content["problems"],
        inputs=[Edge(each["node"], each["how"]) for each in content["inputs"]],
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
