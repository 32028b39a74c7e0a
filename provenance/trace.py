"""From a number back to its bytes: the tree of everything that it was computed from.

A trace begins at rows of one published version (the newest, or any that is kept) and follows the lineage records, not
Dagster's event log, so it needs neither Dagster nor a run. Only rows that the number stands on are followed: a rate of
one evaluation leads to that evaluation's checkpoint, also where its table was merged with earlier rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.addresses import partition_key, table_of
from io_managers.schemas import TABLES
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition, TableStore
from provenance.facts import Fact, facts_of
from provenance.lineage import FILE, Input, Record
from provenance.records import Records, UnknownValue
from provenance.selection import Ambiguous, Selection, matching, select

DEFAULT_ROWS: Mapping[str, Mapping[str, str]] = {
    "success_rate": {"chosen": "true", "arm": "control"},
    "benchmark_policy": {"arm": "control"},
    "niche_query": {"layer": "all"},
    "benchmark_spatial": {"layer": "all"},
}
"""Which rows are traced where the user names none."""

READ, CARRIED = "read", "carried over from"


@dataclass(frozen=True)
class Edge:
    """An input of a node: `read`, or rows `carried over from` an earlier version of the same partition."""

    node: str
    how: str


@dataclass
class Node:
    """One version of one partition, or a file, that the number stands on.

    Attributes
    ----------
    id : unique within the trace.
    asset, partition, content_hash, run_id, address : what it is; asset `file` for a file from outside.
    record : its lineage; None for a file or a registration, or where it was lost.
    job : the submission that computed it (row of table `jobs`); None where the run itself did.
    n_rows : rows that the number stands on; None where they cannot be read.
    facts : what they say, for a reader.
    newest : whether these rows are what is published now. current : whether this very version of them is.
    superseded : why the rows are not what is published now; empty where they are.
    problems : what could not be followed or read.
    """

    id: str
    asset: str
    partition: str
    content_hash: str
    run_id: str | None
    address: str
    record: Record | None = None
    job: Mapping[str, Any] | None = None
    n_rows: int | None = None
    facts: list[Fact] = field(default_factory=list)
    newest: bool = True
    current: bool = False
    superseded: str = ""
    problems: list[str] = field(default_factory=list)
    inputs: list[Edge] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Asset and partition."""
        if self.asset == FILE:
            return f"file {self.address}"
        return f"{self.asset} [{self.partition}]" if self.partition else self.asset


@dataclass(frozen=True)
class Trace:
    """The tree below one number; nodes that several others read stand in it once.

    Attributes
    ----------
    root : id of the node that holds the number.
    where : the columns that chose its rows.
    value : those rows.
    nodes : by id, each before what it was made from.
    """

    root: str
    where: Mapping[str, str]
    value: pl.DataFrame
    nodes: Mapping[str, Node]

    @property
    def superseded(self) -> list[str]:
        """Why the number is not what would be computed now; empty where it is."""
        return [f"{each.title}: {each.superseded}" for each in self.nodes.values() if each.superseded]

    @property
    def problems(self) -> list[str]:
        """What could not be followed or read."""
        return [f"{each.title}: {problem}" for each in self.nodes.values() for problem in each.problems]

    def walk(self) -> Iterator[tuple[int, Edge, Node, bool]]:
        """Depth, edge, node, and whether it was shown before, in the order of reading."""
        seen: set[str] = set()
        stack = [(0, Edge(self.root, READ))]
        while stack:
            depth, edge = stack.pop()
            repeated = edge.node in seen
            yield depth, edge, self.nodes[edge.node], repeated
            seen.add(edge.node)
            if not repeated:
                stack += [(depth + 1, each) for each in reversed(self.nodes[edge.node].inputs)]


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
    return _Tracer(home, verify).trace(asset, partition, where, at)


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
    return _Tracer(home).version(reference, narrowed)


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


class _Tracer:
    def __init__(self, home: Home, verify: bool = True):
        self._home, self._store, self._verify = home, TableStore(home.tables), verify
        self._records = Records(self._store)
        self._nodes: dict[str, Node] = {}
        self._open: list[str] = []
        self._frames: dict[Path, pl.DataFrame] = {}

    def _rows(self, reference: TablePartition) -> pl.DataFrame:
        """The rows of a version; each is read, and hashed where that is asked for, once a trace."""
        if reference.address not in self._frames:
            rows = reference.frame() if self._verify else reference.unverified()
            self._frames[reference.address] = rows
        return self._frames[reference.address]

    def trace(self, asset: str, partition: str, where: Mapping[str, str] | None, at: str | None) -> Trace:
        name, _ = table_of(asset)
        if name not in TABLES:
            raise UnknownValue(_unknown(self._records, asset))
        if at is not None:
            record = self._records.at(asset, partition, at)
            found = _Wanted(asset, partition, record.content_hash, record.run_id, record.address)
            return self._from(found, where)
        try:
            return self._from(_Wanted.of(self._store.partition(*partition_key(asset, partition))), where)
        except MissingPartition as missing:
            raise UnknownValue(_unknown_partition(self._records, asset, partition)) from missing
        except ValueError as error:
            if "not a partition key" in str(error):
                raise UnknownValue(_unknown_partition(self._records, asset, partition)) from error
            raise

    def version(self, reference: TablePartition, where: Mapping[str, str]) -> Trace:
        return self._from(_Wanted.of(reference), where)

    def _from(self, wanted: _Wanted, where: Mapping[str, str] | None) -> Trace:
        name, key = partition_key(wanted.asset, wanted.partition)
        frame = self._rows(self._store.version(name, key, wanted.content_hash, wanted.run_id))
        chosen = where if where is not None else _defaults(name, frame)
        selection = select(name, frame, chosen)
        root = self._visit(wanted, selection)
        return Trace(root, chosen, selection.rows, self._nodes)

    def _visit(self, wanted: _Wanted, child: Selection) -> str:
        identifier = wanted.id
        if identifier in self._nodes:
            if identifier in self._open:
                self._nodes[self._open[-1]].problems.append(f"a cycle in the records: it reads {wanted.told}")
            return identifier
        node = Node(identifier, wanted.asset, wanted.partition, wanted.content_hash, wanted.run_id, wanted.address)
        self._nodes[identifier] = node
        if wanted.asset == FILE:
            node.facts = facts_of(self._home, FILE, pl.DataFrame(), node.address, None)
            return identifier
        self._open.append(identifier)
        self._fill(node, child)
        self._open.pop()
        return identifier

    def _fill(self, node: Node, child: Selection) -> None:
        name, key = partition_key(node.asset, node.partition)
        node.record = self._records.exactly(node.asset, node.partition, node.content_hash, node.run_id)
        if node.record is not None:
            node.job = self._job(node)
        elif "/" in node.asset:
            node.problems.append(
                "its lineage record is lost, so what it was made from is not known; `tracebed lineage rebuild` looks "
                "for it in the event log"
            )
        frame = self._frame(node, name, key)
        selection = child.of(name, frame) if frame is not None else None
        if selection is not None:
            node.n_rows = selection.rows.height
            try:
                node.facts = facts_of(self._home, name, selection.rows, node.address, node.record)
            except (DamagedPartition, ValueError) as problem:
                node.problems.append(f"what else is known of it cannot be read: {problem}")
        if name in TABLES:
            self._hold_against_newest(node, name, key, selection)
        if node.record is not None:
            self._follow(node, node.record, selection or child)

    def _frame(self, node: Node, name: str, key: tuple[str, ...]) -> pl.DataFrame | None:
        if name not in TABLES:
            node.problems.append(f"its table {name!r} is none of this platform's")
            return None
        try:
            reference = self._store.version(name, key, node.content_hash, node.run_id)
            node.address = str(reference.address)
            return self._rows(reference)
        except (FileNotFoundError, DamagedPartition) as problem:
            node.problems.append(str(problem))
            return None

    def _hold_against_newest(self, node: Node, name: str, key: tuple[str, ...], selection: Selection | None) -> None:
        try:
            current = self._store.partition(name, key)
            node.newest = current.data_version == node.content_hash
            node.current = node.newest and current.run_id == node.run_id
            if not node.newest and selection is not None:
                node.superseded = selection.difference(self._rows(current))
        except MissingPartition:
            node.newest, node.superseded = False, "nothing is published there now"
        except DamagedPartition as problem:
            node.newest = False
            node.problems.append(f"what is published there now cannot be read: {problem}")

    def _follow(self, node: Node, record: Record, selection: Selection) -> None:
        earlier = [each for each in record.inputs if _same(each, node)]
        others = [each for each in record.inputs if not _same(each, node)]
        for each in earlier:
            here, all_carried = self._carried(each, selection)
            if all_carried:
                others = []
            if here is not None and not here.rows.is_empty():
                node.inputs.append(Edge(self._visit(_Wanted.input(each), here), CARRIED))
        standing = [each for each in others if self._stands_on(each, selection)]
        if len(standing) < len(others):
            n = len(others) - len(standing)
            node.facts.append(Fact("also read", f"{n} inputs that hold nothing of these rows"))
        node.inputs += [Edge(self._visit(_Wanted.input(each), selection), READ) for each in standing]

    def _stands_on(self, each: Input, selection: Selection) -> bool:
        """Whether an input holds any row that these stand on; one that cannot be read is followed, to say so."""
        if each.asset == FILE:
            return True
        name, key = partition_key(each.asset, each.partition)
        if name not in TABLES:
            return True
        try:
            frame = self._rows(self._store.version(name, key, each.content_hash, each.run_id))
        except (FileNotFoundError, DamagedPartition):
            return True
        return frame.is_empty() or not selection.of(name, frame).rows.is_empty()

    def _carried(self, earlier: Input, selection: Selection) -> tuple[Selection | None, bool]:
        """The rows that were there before, and whether that is all of them."""
        name, key = partition_key(earlier.asset, earlier.partition)
        try:
            frame = self._rows(self._store.version(name, key, earlier.content_hash, earlier.run_id))
        except (FileNotFoundError, DamagedPartition):
            return selection, False  # the node of the earlier version says what is wrong with it
        return selection.of(name, frame), not selection.missing_in(frame)

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


@dataclass(frozen=True)
class _Wanted:
    asset: str
    partition: str
    content_hash: str
    run_id: str | None
    address: str

    @classmethod
    def of(cls, reference: TablePartition) -> _Wanted:
        return cls(
            reference.asset, reference.partition, reference.data_version, reference.run_id, str(reference.address)
        )

    @classmethod
    def input(cls, each: Input) -> _Wanted:
        return cls(each.asset, each.partition, each.content_hash, each.run_id, each.address)

    @property
    def id(self) -> str:
        which = self.address if self.asset == FILE else f"{self.asset}[{self.partition}]"
        return f"{which}@{self.content_hash[:12]}" + (f"/{self.run_id[:8]}" if self.run_id else "")

    @property
    def told(self) -> str:
        return f"{self.asset} [{self.partition}] of run {self.run_id}"


def _same(each: Input, node: Node) -> bool:
    return (each.asset, each.partition) == (node.asset, node.partition)


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
