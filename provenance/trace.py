"""From a number back to its bytes: finds the tree of everything that it was computed from.

A trace begins at rows of one published version (the newest, or any that is kept) and follows the lineage records, not
Dagster's event log, so it needs neither Dagster nor a run. Only rows that the number stands on are followed: a rate of
one evaluation leads to that evaluation's checkpoint, also where its table was merged with earlier rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.addresses import partition_key, table_of
from io_managers.schemas import TABLES
from io_managers.tables import DamagedPartition, MissingPartition, NotAKey, TablePartition, TableStore
from provenance.facts import Fact, facts_of
from provenance.lineage import FILE, Input, Record
from provenance.records import Records, UnknownValue
from provenance.selection import Ambiguous, Selection, matching, select
from provenance.tree import CARRIED, READ, Edge, Node, Trace

DEFAULT_ROWS: Mapping[str, Mapping[str, str]] = {
    "success_rate": {"chosen": "true", "arm": "control"},
    "benchmark_policy": {"arm": "control"},
    "niche_query": {"layer": "all"},
    "benchmark_spatial": {"layer": "all"},
}
"""Which rows are traced where the user names none."""


def trace(
    home: Home,
    asset: str,
    partition: str = "",
    *,
    where: Mapping[str, str] | None = None,
    at: str | None = None,
    verify: bool = True,
) -> Trace:
    """The trace of a value.

    Parameters
    ----------
    where : columns and what they must read; None for the rows of `DEFAULT_ROWS`.
    at : a moment (ISO 8601) or a run; None for the newest value.
    verify : hold the rows of every hop against their content hash. What does not fit is a problem of its node.

    Raises
    ------
    UnknownValue
        For an asset, partition, moment or run of which nothing is known.
    Ambiguous
        When ``where`` names an unknown column, or fits no row.
    MissingPartition, DamagedPartition
        When the rows of the value itself are not kept, or were changed.
    """
    tracer = _Tracer(home, verify)
    return tracer.trace(tracer.find(asset, partition, at), where)


def trace_row(home: Home, name: str, where: Mapping[str, str]) -> Trace:
    """The trace of one row that was found in a table, in whichever partition and version it is.

    Raises
    ------
    Ambiguous
        When no row fits, or several of different partitions or contents do; lists them.
    """
    store = TableStore(home.tables)
    if name not in TABLES:
        raise UnknownValue(f"there is no table {name!r}; the tables are {', '.join(sorted(TABLES))}")
    found: dict[str, TablePartition] = {}
    for version in _values_of(store, name):
        frame = version.stamped()
        rows = matching(name, frame, where)
        identity = [column for column in TABLES[name].identity if column in rows.columns]
        found |= {
            f"{version.asset} [{version.partition}] {_told(row)}": version
            for row in rows.select(identity).unique().to_dicts()
        }
    if len(found) != 1:
        listed = "\n".join(f"  - {each}" for each in list(found)[:20]) or "  - none"
        raise Ambiguous(f"{len(found)} rows of table {name!r} fit {_told(where)}, expected one:\n{listed}")
    (reference,) = found.values()
    narrowed = {column: text for column, text in where.items() if column not in ("run_id", "data_version")}
    return _Tracer(home).trace(Input.of(reference), narrowed)


def _values_of(store: TableStore, name: str) -> list[TablePartition]:
    """Every version of a table, the newest last.

    Raises
    ------
    UnknownValue
        For a table that other assets write into beside their own: its rows are no values.
    """
    versions = sorted(store.every_version(name), key=lambda each: each.address.stat().st_mtime_ns)
    if strange := sorted({each.asset for each in versions if table_of(each.asset)[0] != name}):
        raise UnknownValue(
            f"rows of table {name!r} are no values of their own: they are records of {', '.join(strange[:5])}, which "
            "can be traced"
        )
    return versions


def _told(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items() if value is not None)


@dataclass(frozen=True)
class _Step:
    """One input of a node, and the rows of the node that stand on it."""

    input: Input
    how: str
    rows: Selection


class _Tracer:
    """Finds one tree: first which rows of each version the number stands on, then what is to be told of them."""

    def __init__(self, home: Home, verify: bool = True):
        self._home, self._store, self._verify = home, TableStore(home.tables), verify
        self._records = Records(self._store)
        self._frames: dict[Path, pl.DataFrame] = {}
        self._selected: dict[str, Selection] = {}

    def find(self, asset: str, partition: str, at: str | None) -> Input:
        """The version of a partition that is published now, or was at a moment or by a run."""
        if table_of(asset)[0] not in TABLES:
            raise UnknownValue(_unknown(self._records, asset))
        if at is not None:
            record = self._records.at(asset, partition, at)
            return Input(asset, partition, record.content_hash, record.run_id, record.address)
        try:
            return Input.of(self._store.partition(*partition_key(asset, partition)))
        except (MissingPartition, NotAKey) as missing:
            raise UnknownValue(_unknown_partition(self._records, asset, partition)) from missing

    def trace(self, value: Input, where: Mapping[str, str] | None) -> Trace:
        """The tree below rows of a version."""
        name, frame = table_of(value.asset)[0], self._rows(self._version(value))
        chosen = _defaults(name, frame) if where is None else where
        rows = select(name, frame, chosen)
        self._spread(value, rows)
        nodes: dict[str, Node] = {}
        self._describe(value, nodes, ())
        return Trace(_identity(value), chosen, rows.rows, nodes)

    def _version(self, each: Input) -> TablePartition:
        return self._store.version(*partition_key(each.asset, each.partition), each.content_hash, each.run_id)

    def _rows(self, reference: TablePartition) -> pl.DataFrame:
        """The rows of a version; each is read, and hashed where that is asked for, once a trace."""
        if reference.address not in self._frames:
            rows = reference.frame() if self._verify else reference.unverified()
            self._frames[reference.address] = rows
        return self._frames[reference.address]

    def _readable(self, each: Input) -> pl.DataFrame | None:
        """The rows of an input; None for a file, and for what cannot be read, which its node says."""
        if each.asset == FILE or table_of(each.asset)[0] not in TABLES:
            return None
        try:
            return self._rows(self._version(each))
        except (FileNotFoundError, DamagedPartition):
            return None

    def _spread(self, version: Input, rows: Selection) -> None:
        """Note that the number stands on rows of a version, and so on rows of its inputs.

        A version that several others read is reached with the rows of each. Where its own rows cannot be read, those
        of what reads it are taken on.
        """
        known = self._selected.get(_identity(version))
        if known is not None and (known.schema != rows.schema or not rows.rows_beyond(known)):
            return
        grown = rows if known is None else known.with_rows(rows)
        self._selected[_identity(version)] = grown
        for step in self._steps(version, self._record(version), grown)[0]:
            frame = self._readable(step.input)
            below = step.rows if frame is None else step.rows.of(table_of(step.input.asset)[0], frame)
            self._spread(step.input, below)

    def _record(self, version: Input) -> Record | None:
        if version.asset == FILE:
            return None
        return self._records.exactly(version.asset, version.partition, version.content_hash, version.run_id)

    def _steps(self, version: Input, record: Record | None, rows: Selection) -> tuple[list[_Step], int]:
        """The inputs that rows of a version stand on, and the number of those that hold nothing of them."""
        inputs = record.inputs if record is not None else ()
        own = [each for each in inputs if (each.asset, each.partition) == (version.asset, version.partition)]
        others = [each for each in inputs if each not in own]
        steps: list[_Step] = []
        for each in own:  # a merged table: rows that were there before were not made by this version
            frame = self._readable(each)
            if frame is not None and not rows.missing_in(frame):
                others = []
            if frame is None or not rows.of(rows.schema.name, frame).rows.is_empty():
                steps.append(_Step(each, CARRIED, rows))
        standing = [_Step(each, READ, rows) for each in others if self._holds_some(each, rows)]
        return steps + standing, len(others) - len(standing)

    def _holds_some(self, each: Input, rows: Selection) -> bool:
        """Whether an input holds any row that these stand on; one that cannot be read is followed, to say so."""
        frame = self._readable(each)
        return frame is None or frame.is_empty() or not rows.of(table_of(each.asset)[0], frame).rows.is_empty()

    def _describe(self, version: Input, nodes: dict[str, Node], above: Sequence[str]) -> None:
        identifier, rows = _identity(version), self._selected[_identity(version)]
        node = Node(identifier, version.asset, version.partition, version.content_hash, version.run_id, version.address)
        nodes[identifier] = node
        if version.asset == FILE:
            node.facts = facts_of(self._home, FILE, pl.DataFrame(), node.address, None)
            return
        node.record = self._record(version)
        if node.record is not None:
            node.job = self._job(node)
        elif "/" in node.asset:  # a registration has none
            node.problems.append(
                "its lineage record is lost, so what it was made from is not known; `tracebed lineage rebuild` looks "
                "for it in the event log"
            )
        self._tell(node, version, rows)
        steps, holding_none = self._steps(version, node.record, rows)
        if holding_none:
            node.facts.append(Fact("also read", f"{holding_none} inputs that hold nothing of these rows"))
        for step in steps:
            below = _identity(step.input)
            node.inputs.append(Edge(below, step.how))
            if below in (*above, identifier):
                told = f"{step.input.asset} [{step.input.partition}] of run {step.input.run_id}"
                node.problems.append(f"a cycle in the records: it reads {told}")
            elif below not in nodes:
                self._describe(step.input, nodes, (*above, identifier))

    def _tell(self, node: Node, version: Input, rows: Selection) -> None:
        """What the rows of a node say, and whether they are what is published now."""
        name = table_of(node.asset)[0]
        if name not in TABLES:
            node.problems.append(f"its table {name!r} is none of this platform's")
            return
        try:
            reference = self._version(version)
            node.address = str(reference.address)
            self._rows(reference)
        except (FileNotFoundError, DamagedPartition) as problem:
            node.problems.append(str(problem))
            rows = Selection.nothing(name)
        else:
            node.n_rows = rows.rows.height
            try:
                node.facts = facts_of(self._home, name, rows.rows, node.address, node.record)
            except (DamagedPartition, ValueError) as problem:
                node.problems.append(f"what else is known of it cannot be read: {problem}")
        self._hold_against_newest(node, rows)

    def _hold_against_newest(self, node: Node, rows: Selection) -> None:
        try:
            current = self._store.partition(*partition_key(node.asset, node.partition))
            node.newest = current.data_version == node.content_hash
            node.current = node.newest and current.run_id == node.run_id
            if not node.newest:
                node.superseded = rows.difference(self._rows(current))
        except MissingPartition:
            node.newest, node.superseded = False, "nothing is published there now"
        except DamagedPartition as problem:
            node.newest = False
            node.problems.append(f"what is published there now cannot be read: {problem}")

    def _job(self, node: Node) -> Mapping[str, Any] | None:
        from resources.compute.job_directory import JobDirectory
        from resources.compute.job_table import submission_row

        key = node.record.job_key if node.record else None
        if key is None:
            return None
        job = JobDirectory(self._home.jobs / key)
        numbers = job.submissions() if job.path.is_dir() else []
        if not numbers:
            node.problems.append(f"the directory of its job {key} is gone")
            return {"key": key}
        return submission_row(job, numbers[-1])


def _identity(each: Input) -> str:
    which = each.address if each.asset == FILE else f"{each.asset}[{each.partition}]"
    return f"{which}@{each.content_hash[:12]}" + (f"/{each.run_id[:8]}" if each.run_id else "")


def _defaults(name: str, frame: pl.DataFrame) -> Mapping[str, str]:
    """The default rows of a table, or all of them where none is such (a checkpoint that was never rolled out)."""
    wanted = DEFAULT_ROWS.get(name, {})
    return {} if matching(name, frame, wanted).is_empty() else wanted


def _unknown(records: Records, asset: str) -> str:
    known = "\n".join(f"  - {each}" for each in records.assets()) or "  - nothing"
    return f"found asset {asset!r}, expected one that was materialised here:\n{known}"


def _unknown_partition(records: Records, asset: str, partition: str) -> str:
    known = records.partitions(asset)
    if not known:
        return _unknown(records, asset)
    listed = ", ".join(each or "(none: it has no partitions)" for each in known)
    return f"found partition {partition!r} of {asset}, expected one that was materialised: {listed}"
