"""Records held against the tables: a record whose rows are gone, rows without their record, rows that were replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from io_managers.addresses import partition_key
from io_managers.schemas import TABLES
from io_managers.tables import TableStore
from provenance.audit.events import Event
from provenance.audit.findings import Finding, Kind, NotChecked
from provenance.audit.records_on_disk import RecordFile, moment, record_is_there
from provenance.audit.scope import Scope
from provenance.audit.tables_on_disk import FILE_NAME, TableFile, Version


def rows_without_record(
    store: TableStore, files: Sequence[TableFile], records: Mapping[Version, RecordFile], scope: Scope
) -> Iterator[Finding]:
    """Published rows that nobody can trace; a record that is there and cannot be read is told elsewhere."""
    told: set[tuple[int, int]] = set()
    for each in sorted(files, key=lambda each: each.kept):
        if each.problem or not each.of_an_asset or each.inode in told or not scope.holds(each.version):
            continue
        if each.version in records or record_is_there(store, each.version):
            continue
        told.add(each.inode)
        yield Finding(
            Kind.ORPHAN_TABLE,
            each.asset,
            each.partition,
            each.path,
            f"rows of run {each.run_id}, data version {each.data_version[:12]}, without a lineage record",
            "a record in table lineage that says what they were made from",
            "`tracebed lineage rebuild` writes it again from the event log; else materialise the partition again",
        )


def partitions_without_rows(
    store: TableStore,
    files: Sequence[TableFile],
    records: Mapping[Version, RecordFile],
    events: Mapping[Version, Sequence[Event]],
    log_began: float | None,
    scope: Scope,
) -> Iterator[Finding]:
    """Partitions whose newest version is not what is published, or of which nothing is published any more.

    A version was published if there is an event of it, or its file; and if its rows are kept, where it is older than
    the log (since ``log_began``). Else its run may have died before.
    """
    by_partition: dict[tuple[str, str], list[RecordFile]] = defaultdict(list)
    for each in records.values():
        by_partition[each.asset, each.partition].append(each)
    published = {each.path: each for each in files if not each.kept}
    on_disk = {each.version for each in files}
    newest_files = {each.version for each in published.values()}
    told = events.keys() & records.keys()  # one without an event may be published at this moment
    for (asset, partition), known in by_partition.items():
        finished = [
            each
            for each in known
            if each.version in events
            or each.version in newest_files
            or (each.version in on_disk and (log_began is None or each.recorded_at < log_began))
        ]
        name, key = partition_key(asset, partition)
        if name not in TABLES or not finished or (asset, partition) not in scope.selected:
            continue
        newest = max(finished, key=lambda each: _order(each, events))
        address = "/".join((str(store.root), name, *key, FILE_NAME))
        there = published.get(address)
        if there is None and not Path(address).exists():
            yield _missing(newest, address, on_disk)
        elif there is None or there.version == newest.version or not {there.version, newest.version} <= told:
            continue
        elif Path(address).stat().st_ino == there.inode[1]:  # else it was published again since it was listed
            yield _replaced(newest, there, records[there.version])


def _order(each: RecordFile, events: Mapping[Version, Sequence[Event]]) -> tuple[float, float]:
    """Publications in their order: two runs may write their records in one order and publish in the other."""
    told = events.get(each.version)
    return (max(event.at for event in told) if told else each.recorded_at), each.recorded_at


def _missing(newest: RecordFile, address: str, on_disk: set[Version]) -> Finding:
    kept = Path(address).parent / "versions" / f"{newest.content_hash}--{newest.run_id}.parquet"
    cure = "take it from a backup, or materialise it again"
    if newest.version in on_disk:
        cure = f"{kept} still holds it: copy that file to {address}, or materialise it again"
    return Finding(
        Kind.MISSING_PARTITION,
        newest.asset,
        newest.partition,
        address,
        "no file",
        f"the version of run {newest.run_id}, {moment(newest.recorded_at)}, data version {newest.content_hash[:12]}",
        cure,
    )


def _replaced(newest: RecordFile, there: TableFile, older: RecordFile) -> Finding:
    return Finding(
        Kind.REPLACED_PARTITION,
        newest.asset,
        newest.partition,
        there.path,
        f"the version of run {there.run_id}, {moment(older.recorded_at)}, data version {there.data_version[:12]}",
        f"the newest one, of run {newest.run_id}, {moment(newest.recorded_at)}, data version "
        f"{newest.content_hash[:12]}",
        "an older version was put back by hand: put the newest one back from versions/, or materialise it again",
    )


def versions_gone(
    files: Sequence[TableFile],
    records: Mapping[Version, RecordFile],
    events: Mapping[Version, Sequence[Event]],
    scope: Scope,
) -> tuple[list[Finding], list[NotChecked]]:
    """Versions that a kept number stands on, whose rows are not kept."""
    on_disk = {each.version for each in files}
    newest_gone = {each.version[:2] for each in files if not each.kept}
    findings, older = [], 0
    for version in sorted(scope.reached - on_disk):
        record = records.get(version)
        if record is None or version[:2] not in newest_gone:
            continue  # a missing hop, or a missing partition: told as such
        if not any(event.digest for event in events.get(version, ())):
            older += 1
            continue
        findings.append(
            Finding(
                Kind.MISSING_VERSION,
                *version[:2],
                record.path,
                f"no rows of the version of run {version[3]}, data version {version[2][:12]}",
                "a file in versions/ beside the published one, since a published number stands on it",
                "take it from a backup; without it that number can be traced, but not looked into",
            )
        )
    reason = "published before old versions were kept: their records stand, their rows are gone"
    return findings, [NotChecked("rows of old versions", reason, older)] if older else []
