"""Records held against Dagster's event log: each has its event, each event its record, in both places of the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from io_managers.addresses import table_of
from io_managers.schemas import TABLES
from io_managers.tables import TableStore
from provenance.audit.agreement import Agreement, disagreement
from provenance.audit.events import AT_A_TIME, Event, EventLog
from provenance.audit.findings import Finding, Kind
from provenance.audit.records_on_disk import RecordFile, moment, record_is_there
from provenance.audit.run_logs import Place
from provenance.audit.scope import Scope
from provenance.audit.tables_on_disk import Version

if TYPE_CHECKING:
    import dagster as dg

UNKNOWN = "unknown to Dagster"
_DIED = frozenset({"FAILURE", "CANCELED"})
_DELETED = (
    "the row was deleted or the asset wiped: restore Dagster's database from a backup, or materialise the partition "
    "again; the record still leads to what it was made from"
)


@dataclass(frozen=True)
class AgainstEvents:
    """The records of a home beside its event log.

    Attributes
    ----------
    in_use : publications that are the newest, or that a record reads.
    under_way : runs that had not ended before the log was read.
    left_out : what could not be compared, as (what, reason), counted while findings are given out.
    """

    instance: dg.DagsterInstance
    store: TableStore
    log: EventLog
    records: Mapping[Version, RecordFile]
    events: Mapping[Version, Sequence[Event]]
    in_use: Collection[Version]
    under_way: Collection[str]
    scope: Scope
    left_out: Counter[tuple[str, str]]

    def findings(self) -> Iterator[Finding]:
        """Every record or event that stands alone, and every pair that disagrees."""
        agreement = Agreement(self.instance, self.log.events)
        records: dict[Place, list[RecordFile]] = defaultdict(list)
        events: dict[Place, list[Event]] = defaultdict(list)
        for version, record in self.records.items():
            if not self.scope.holds(version):
                continue
            if version not in self.events:
                records[record.run_id, *version[:2]].append(record)
                continue
            for difference in agreement.differences(record, self.events[version][-1]):
                if isinstance(difference, str):
                    self.left_out["input data versions", difference] += 1
                else:
                    yield disagreement(record, difference)
        for version, each in self.events.items():
            if version not in self.records and of_a_table(version[0]):
                events[version[3], *version[:2]] += each
        yield from self._alone(records, events)
        yield from self._in_one_log_only()

    def _alone(
        self, records: Mapping[Place, list[RecordFile]], events: Mapping[Place, list[Event]]
    ) -> Iterator[Finding]:
        told = {(event.run_id, event.asset, event.partition) for event in self.log.events}
        status = run_statuses(self.instance, {place[0] for place in records})
        for place in sorted(records.keys() | events.keys()):
            mine = sorted(records.get(place, []), key=lambda each: each.recorded_at)
            theirs = sorted(events.get(place, []), key=lambda each: each.id)
            while mine and theirs:  # of one run and partition
                yield disagreement(mine.pop(), _content(theirs.pop()))
            if self.scope.everything or place[1:] in self.scope.selected:
                yield from (found for event in theirs for found in self._without_record(event))
            # Within one run, an attempt may die between its record and its event; a later attempt has both.
            if place not in told:
                yield from (
                    found for each in mine for found in self._without_event(each, status.get(place[0], UNKNOWN))
                )

    def _without_record(self, event: Event) -> Iterator[Finding]:
        version = (event.asset, event.partition, event.data_version, event.run_id)
        if record_is_there(self.store, version):
            return  # it cannot be read, which is told elsewhere, or was written since the records were listed
        cure = "`tracebed lineage rebuild` writes the record again from the event"
        yield Finding(
            Kind.EVENT_WITHOUT_RECORD,
            event.asset,
            event.partition,
            str(self.store.root / "lineage"),
            event.problem or f"no record of the materialisation of {moment(event.at)}, run {event.run_id}",
            f"the lineage record of data version {event.data_version[:12]}, which event {event.id} tells of",
            cure if event.digest else f"{cure}, without its inputs: code of that time did not put them there",
        )

    def _without_event(self, record: RecordFile, status: str) -> Iterator[Finding]:
        in_run = (record.run_id, record.asset, record.partition) in self.log.only_in_run
        began = self.log.began
        if record.run_id in self.under_way:
            self.left_out["records", "their run was under way: its events were still to come"] += 1
        elif not in_run and status in _DIED and record.version not in self.in_use:
            return  # the run died after it wrote the record and before it published: a record alone is harmless
        elif began is None or record.recorded_at < began:
            since = f"begins {moment(began)}" if began is not None else "is empty"
            self.left_out["records", f"they are older than Dagster's event log, which {since}"] += 1
        else:
            yield Finding(
                Kind.RECORD_WITHOUT_EVENT,
                record.asset,
                record.partition,
                self.log.where,
                _what_is_left(record, status, in_run),
                f"the materialisation of {moment(record.recorded_at)}, data version {record.content_hash[:12]}",
                _DELETED,
            )

    def _in_one_log_only(self) -> Iterator[Finding]:
        """What the index of all runs still has, and the run's own log has not."""
        for place, n in sorted(self.log.only_in_index.items()):
            if self._is_in_scope(place):
                yield self._lost_in_run(place, f"the log of run {place[0]} lacks it ({n} of its materialisations)")
        sizes = Counter(event.run_id for event in self.log.events)
        first = {event.run_id: event for event in reversed(self.log.events)}
        for run in sorted(self.log.lost_run_logs):
            place = (run, first[run].asset, first[run].partition)
            if self._is_in_scope(place):
                yield self._lost_in_run(place, f"the log of run {run} is gone, with {sizes[run]} materialisations")

    def _is_in_scope(self, place: Place) -> bool:
        if not of_a_table(place[1]):
            return False
        versions = self._versions_at.get(place, ())
        return self.scope.everything or place[1:] in self.scope.selected or any(map(self.scope.holds, versions))

    @cached_property
    def _versions_at(self) -> Mapping[Place, Sequence[Version]]:
        found: dict[Place, list[Version]] = defaultdict(list)
        for version in self.events:
            found[version[3], version[0], version[1]].append(version)
        return found

    def _lost_in_run(self, place: Place, found: str) -> Finding:
        return Finding(
            Kind.RECORD_WITHOUT_EVENT,
            place[1],
            place[2],
            self.instance.event_log_storage.path_for_shard(place[0]),  # type: ignore[attr-defined]
            f"{found}; the index of all runs, {self.log.where}, has it",
            "the materialisation in both",
            "a row or file was deleted: restore it from a backup; the record and the index still tell the same",
        )


def of_a_table(asset: str) -> bool:
    """Whether materialisations of an asset have lineage records."""
    return "/" in asset and table_of(asset)[0] in TABLES


def run_statuses(instance: dg.DagsterInstance, runs: Collection[str]) -> dict[str, str]:
    """Run -> its status, of those that Dagster knows."""
    from dagster import RunsFilter

    wanted = sorted(runs)
    known: dict[str, str] = {}
    for first in range(0, len(wanted), AT_A_TIME):
        for run in instance.get_runs(RunsFilter(run_ids=wanted[first : first + AT_A_TIME])):
            known[run.run_id] = run.status.value
    return known


def _content(event: Event) -> tuple[str, str, str]:
    return (
        event.problem or f"data version {event.data_version or 'none'} in event {event.id}",
        "the content hash that the record of the same run tells",
        "one of both was changed after the run: `edited table` tells whether it was the record; materialise the "
        "partition again",
    )


def _what_is_left(record: RecordFile, status: str, in_run: bool) -> str:
    if in_run:
        return f"no row in the index of all runs; the log of run {record.run_id} still has it"
    if status == UNKNOWN:
        return f"no row in the index of all runs nor a log of run {record.run_id}, a run that is {UNKNOWN}"
    if status in _DIED:
        return f"no row, and run {record.run_id} ended {status}: it died between publishing and reporting"
    return f"no row in the index of all runs, nor in the log of run {record.run_id}, which ended {status}"
