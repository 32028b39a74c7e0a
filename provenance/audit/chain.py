"""The chain of records: hops that are missing, cycles, inputs that have been published again, and source files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from io_managers.parquet_bytes import read_parquet, without_stamps
from io_managers.schemas import TABLES
from io_managers.tables import TableStore
from provenance.audit.artifacts_on_disk import hashed
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.findings import Counts, Finding, Kind, NotChecked
from provenance.audit.records_on_disk import RecordFile, moment, record_is_there
from provenance.audit.scope import Scope
from provenance.audit.tables_on_disk import SIDE_TABLES, TableFile, Version
from provenance.lineage import FILE, Input
from provenance.selection import Selection


def missing_hops(store: TableStore, records: Mapping[Version, RecordFile], scope: Scope) -> Iterator[Finding]:
    """Versions that were read, of which there is no record: the chain ends there."""
    readers: dict[Version, list[RecordFile]] = defaultdict(list)
    for each in records.values():
        if scope.holds(each.version):
            for parent in each.parents:
                if parent not in records and "/" in parent[0]:  # a registration has no record
                    readers[parent].append(each)
    for version, by in sorted(readers.items()):
        if record_is_there(store, version):
            continue  # it cannot be read, which is told elsewhere, or was written since the records were listed
        asset, partition, content_hash, run_id = version
        more = f" and {len(by) - 1} others" if len(by) > 1 else ""
        yield Finding(
            Kind.MISSING_HOP,
            asset,
            partition,
            by[0].path,
            f"no record of version {content_hash[:12]} of run {run_id or 'that is not named'}",
            f"one, since {by[0].asset} [{by[0].partition}] of run {by[0].run_id}{more} read it",
            "`tracebed lineage rebuild` looks for it in the event log",
        )


def cycles(records: Mapping[Version, RecordFile], scope: Scope) -> Iterator[Finding]:
    """Publications that stand on themselves: a record was changed, since what is read was there before."""
    done: set[Version] = set()
    for root in records:
        if root in done or not scope.holds(root):
            continue
        path: list[Version] = []
        on_path: set[Version] = set()
        stack: list[tuple[Version, bool]] = [(root, False)]
        while stack:
            version, leaving = stack.pop()
            if leaving:
                on_path.discard(path.pop())
                done.add(version)
            elif version in on_path:
                yield _cycle(records[version], path[path.index(version) :])
            elif version not in done and version in records:
                path.append(version)
                on_path.add(version)
                stack.append((version, True))
                stack += [(parent, False) for parent in dict.fromkeys(records[version].parents)]


def _cycle(record: RecordFile, path: Sequence[Version]) -> Finding:
    told = " reads ".join(f"{asset} [{partition}] of run {run[:8]}" for asset, partition, _, run in [*path, path[0]])
    return Finding(
        Kind.CYCLE,
        record.asset,
        record.partition,
        record.path,
        told,
        "inputs that were published before what was made from them",
        "one of these records was changed: the event log tells which; move it away, and `tracebed lineage rebuild` "
        "writes it again",
    )


def older_inputs(
    files: Sequence[TableFile], records: Mapping[Version, RecordFile], scope: Scope
) -> tuple[list[Finding], list[NotChecked]]:
    """Newest values that would come out otherwise now: rows that they stand on were published again with a change."""
    whole = {each.version: each for each in files if not each.problem and each.content_hash == each.data_version}
    newest = {(each.asset, each.partition): each for each in files if each.is_newest and each.table not in SIDE_TABLES}
    findings, lost = [], 0
    for each in newest.values():
        record = records.get(each.version)
        if record is None or each.version not in scope.reached:
            continue
        for read, version in zip(record.read, record.parents, strict=True):
            now = newest.get(version[:2])
            if now is None or version[:2] == each.version[:2] or now.data_version == read.content_hash:
                continue
            if not {each.version, version, now.version} <= whole.keys():
                lost += 1
            elif difference := _difference(each, whole[version], now):
                findings.append(_older(each, read, now, records.get(now.version), difference))
    reason = "the version that was read is not kept whole: whether other rows would be read now is not known"
    return findings, [NotChecked("inputs that were published again", reason, lost)] if lost else []


def _difference(value: TableFile, then: TableFile, now: TableFile) -> str:
    """What differs now in the rows that a value stands on; empty where nothing does."""
    rows = Selection(TABLES[value.table], _rows(value))
    return rows.of(then.table, _rows(then)).difference(_rows(now))


def _rows(file: TableFile) -> pl.DataFrame:
    return without_stamps(read_parquet(file.path)[1])


def _older(value: TableFile, read: Input, now: TableFile, newer: RecordFile | None, difference: str) -> Finding:
    when = f", {moment(newer.recorded_at)}" if newer is not None else ""
    return Finding(
        Kind.OLDER_INPUT,
        value.asset,
        value.partition,
        value.path,
        f"it was computed from {read.asset} [{read.partition}] version {read.content_hash[:12]}; of that, {difference}",
        f"the newest, version {now.data_version[:12]} of run {now.run_id}{when}",
        "materialise it again; the value that is published now can still be traced",
    )


def sources(memory: Memory, records: Mapping[Version, RecordFile], scope: Scope, counts: Counts) -> Iterator[Finding]:
    """Files from outside the platform on which published values stand, and which are not what they were."""
    readers: dict[tuple[str, str], RecordFile] = {}
    for version in sorted(scope.reached & records.keys()):
        for each in records[version].inputs:
            if each.asset == FILE:
                readers.setdefault((each.address, each.content_hash), records[version])
    for (address, content_hash), record in sorted(readers.items(), key=lambda each: each[0]):
        counts.sources += 1
        try:
            found = memory.recall(address, hashed)
        except (FileNotFoundError, NotADirectoryError):
            yield _source(Kind.MISSING_SOURCE, record, address, "no file", content_hash)
            continue
        except (PermissionError, IsADirectoryError) as error:
            yield _source(Kind.MISSING_SOURCE, record, address, f"nothing to read: {error.strerror}", content_hash)
            continue
        if found != content_hash:
            yield _source(Kind.CHANGED_SOURCE, record, address, f"sha256 {found}", content_hash)


def _source(kind: Kind, record: RecordFile, address: str, found: str, expected: str) -> Finding:
    return Finding(
        kind,
        record.asset,
        record.partition,
        address,
        found,
        f"sha256 {expected}, the bytes that were read {moment(record.recorded_at)}",
        "the number itself is still traceable, and stands on the bytes of that time: put them back to compute it "
        "again, or register the new ones",
    )
