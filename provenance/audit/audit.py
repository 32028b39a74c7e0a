"""The audit: lineage records, event log, tables, artifacts and source files of a home, held against each other.

Runs may publish meanwhile: a run writes artifacts, the record, the rows and the event, in this order. So tables are
listed before records and artifacts, what lacks is looked for once more before it is told, and what a run that is under
way has not reported yet is not judged.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from home import Home
from io_managers.addresses import partition_key
from io_managers.tables import TableStore
from provenance.audit.against_events import AgainstEvents, of_a_table
from provenance.audit.against_tables import partitions_without_rows, rows_without_record, versions_gone
from provenance.audit.artifacts_on_disk import artifacts_as_published, pointed_to
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.chain import cycles, missing_hops, older_inputs, sources
from provenance.audit.events import Event, EventLog, read_event_log
from provenance.audit.findings import AuditReport, Counts, Finding, Kind, NotChecked
from provenance.audit.records_on_disk import RecordFile, read_records, records_as_written
from provenance.audit.scope import Scope, scope_of
from provenance.audit.tables_on_disk import TableFile, Version, read_tables, tables_as_published

if TYPE_CHECKING:
    import dagster as dg

Say = Callable[[str], object]


def audit(
    home: Home,
    instance: dg.DagsterInstance | None,
    selection: Sequence[str] = (),
    *,
    full: bool = False,
    say: Say = lambda _: None,
) -> AuditReport:
    """Hold what is recorded against what is there.

    Parameters
    ----------
    instance : Dagster's instance of the home; None where it is missing, which leaves events unchecked.
    selection : asset keys, prefixes or globs, each perhaps with `:partition`; all that they stand on belongs to it.
        Without one, everything is held, and orphans are looked for.
    full : read and hash every file again, whatever its stat.
    say : is told of progress.

    Raises
    ------
    UnknownValue
        For a selection that fits nothing.
    """
    began = time.time()
    memory = Memory(home.root / "audit" / "files.parquet", full=full)
    sides = _read(home, instance, memory, full, say)
    in_log = [version for version in sides.events if of_a_table(version[0])]
    scope = scope_of(selection, sides.files, sides.records, in_log)
    counts = _counted(sides, scope)
    say("holding records, events and tables against each other")
    findings, not_checked = _of_records(sides, scope, instance)
    say("holding artifacts and source files against their hashes")
    findings += sources(memory, sides.records, scope, counts)
    judged_until = min([began, *sides.under_way.values()])
    pointed = pointed_to(sides.files, sides.records, scope)
    of_artifacts, young = artifacts_as_published(home.artifacts, memory, pointed, scope, counts, judged_until)
    if young:
        not_checked.append(NotChecked("artifacts", "no row points to them yet, and a run is under way", young))
    memory.save()
    counts.bytes_hashed, counts.bytes_unchanged = memory.bytes_hashed, memory.bytes_unchanged
    return AuditReport(_ordered([*findings, *of_artifacts]), tuple(not_checked), counts)


@dataclass(frozen=True)
class _Sides:
    """What is held against each other; ``under_way`` are runs that had not ended, and when they were created."""

    store: TableStore
    files: Sequence[TableFile]
    record_files: Sequence[RecordFile]
    records: Mapping[Version, RecordFile]
    under_way: Mapping[str, float]
    log: EventLog
    events: Mapping[Version, Sequence[Event]]


def _read(home: Home, instance: dg.DagsterInstance | None, memory: Memory, full: bool, say: Say) -> _Sides:
    say("reading the tables")
    files = read_tables(home.tables, memory)
    say("reading the lineage records")
    record_files = read_records(home.tables, memory)
    records = {each.version: each for each in record_files if not each.problem}
    say("reading the event log")
    under_way = _under_way(instance) if instance is not None else {}
    log = read_event_log(instance, home.root / "audit", full=full) if instance is not None else EventLog()
    events: dict[Version, list[Event]] = defaultdict(list)
    for event in log.events:
        events[event.asset, event.partition, event.data_version, event.run_id].append(event)
    return _Sides(TableStore(home.tables), files, record_files, records, under_way, log, events)


def _of_records(
    sides: _Sides, scope: Scope, instance: dg.DagsterInstance | None
) -> tuple[list[Finding], list[NotChecked]]:
    files, records, events = sides.files, sides.records, sides.events
    names = {partition_key(version[0], version[1]): version[:2] for version in records}
    held = [each for each in files if scope.holds(each.version) or names.get((each.table, each.key)) in scope.selected]
    held = list(files) if scope.everything else held
    gone, rows_left_out = versions_gone(files, records, events, scope)
    older, inputs_left_out = older_inputs(files, records, scope)
    findings = [
        *tables_as_published(held, names),
        *records_as_written([each for each in sides.record_files if scope.holds(each.version)]),
        *rows_without_record(sides.store, held, records, scope),
        *partitions_without_rows(sides.store, files, records, events, sides.log.began, scope),
        *gone,
        *missing_hops(sides.store, records, scope),
        *cycles(records, scope),
        *older,
    ]
    not_checked = [*rows_left_out, *inputs_left_out]
    if instance is None:
        lacking = "there is no Dagster home, so no event log to hold them against"
        return findings, [*not_checked, NotChecked("records", lacking, len(records))]
    unsaid: Counter[tuple[str, str]] = Counter()
    in_use = {each.version for each in files if each.is_newest}
    in_use |= {parent for each in records.values() for parent in each.parents}
    findings += AgainstEvents(
        instance, sides.store, sides.log, records, events, in_use, sides.under_way.keys(), scope, unsaid
    ).findings()
    return findings, [*not_checked, *(NotChecked(what, why, n) for (what, why), n in sorted(unsaid.items()))]


def _counted(sides: _Sides, scope: Scope) -> Counts:
    files = [each for each in sides.files if scope.holds(each.version)]
    return Counts(
        partitions=sum(each.is_newest and (each.asset, each.partition) in scope.selected for each in files),
        versions=len({each.inode for each in files}),
        records=sum(scope.holds(version) for version in sides.records),
        events=sum(len(each) for version, each in sides.events.items() if scope.holds(version)),
    )


def _ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = list(Kind)
    return tuple(sorted(findings, key=lambda each: (order.index(each.kind), each.asset, each.partition, each.file)))


def _under_way(instance: dg.DagsterInstance) -> dict[str, float]:
    """Runs that have not ended, and when they were created, in seconds since 1970."""
    from dagster import RunsFilter
    from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

    records = instance.get_run_records(RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES)))
    return {each.dagster_run.run_id: each.start_time or each.create_timestamp.timestamp() for each in records}
