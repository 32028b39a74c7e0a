"""Lineage records written again from Dagster's event log, where the table has lost them.

An event carries the record that its run wrote. One of older code does not: its record is made of what the event knows,
with those inputs that its tags prove, and says so. A record that is there is never touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from home import Home
from io_managers.addresses import partition_key
from io_managers.tables import TableStore
from provenance.audit.against_events import of_a_table
from provenance.audit.agreement import noted
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.events import Event, lineage_of, read_event_log
from provenance.audit.records_on_disk import RecordFile, read_records
from provenance.lineage import Input, Record, record_key, write_record

if TYPE_CHECKING:
    import dagster as dg

NOT_KNOWN = "not known: rebuilt from an event that does not carry it"
"""The node of a record that is not whole: `tracebed trace` shows it where it shows where a value was computed."""


@dataclass
class Rebuilt:
    """What became of every event.

    Attributes
    ----------
    there : records that were there, and are as they were.
    whole : records that were written as their run wrote them.
    partly : records that were written without what the event does not know, and what that is.
    not_written : events of which no record could be written, and why.
    """

    there: int = 0
    whole: list[Record] = field(default_factory=list)
    partly: list[tuple[Record, str]] = field(default_factory=list)
    not_written: list[tuple[str, str]] = field(default_factory=list)


def rebuild(home: Home, instance: dg.DagsterInstance) -> Rebuilt:
    """Write the record of every materialisation in the event log that has none."""
    folder, store = home.root / "audit", TableStore(home.tables)
    records = read_records(home.tables, Memory(folder / "files.parquet"))
    known = {each.version for each in records if not each.problem}
    events = [event for event in read_event_log(instance, folder).events if of_a_table(event.asset)]
    by_asset: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_asset[event.asset].append(event)
    done = Rebuilt()
    for event in events:
        if (event.asset, event.partition, event.data_version, event.run_id) in known:
            done.there += 1
            continue
        told = f"{event.asset} [{event.partition}] of run {event.run_id}"
        if refusal := _refusal(store, event, records):
            done.not_written.append((told, refusal))
            continue
        if event.digest and (carried := lineage_of(instance, event.id)) is not None:
            record = Record.from_described(carried)
            done.whole.append(record)
        else:
            record, lacking = _partly(store, event, by_asset)
            done.partly.append((record, lacking))
        write_record(store, record)
        known.add((event.asset, event.partition, event.data_version, event.run_id))
    return done


def _refusal(store: TableStore, event: Event, records: Sequence[RecordFile]) -> str:
    """Why no record of an event can be written; empty where it can."""
    if event.problem:
        return event.problem
    if not event.data_version:
        return "the event has no data version: nothing says what was published"
    place = store.address("lineage", record_key(event.asset, event.partition, event.data_version, event.run_id))
    if place.exists():
        return f"a record that cannot be read, or says something else, is there: look at it, and move {place} away"
    return ""


def _partly(store: TableStore, event: Event, by_asset: Mapping[str, Sequence[Event]]) -> tuple[Record, str]:
    inputs, lost = [], []
    for asset, note in sorted(event.inputs.items()):
        proven = _proven(store, event, asset, note, by_asset.get(asset, ()))
        if proven is None:
            lost.append(asset)
        else:
            inputs.append(proven)
    record = Record(
        event.asset,
        event.partition,
        event.data_version,
        event.run_id,
        str(store.address(*partition_key(event.asset, event.partition))),
        event.code_version,
        None,
        {},
        None,
        None,
        NOT_KNOWN,
        datetime.fromtimestamp(event.at, UTC),
        tuple(inputs),
    )
    lacking = "source files, an earlier version that it was merged with, job, node, commit, versions, configuration"
    return record, f"which partitions of {', '.join(lost)} it read; {lacking}" if lost else lacking


def _proven(store: TableStore, event: Event, asset: str, note: str, upstream: Sequence[Event]) -> Input | None:
    """The one partition that was read, where Dagster's note of the input fits one publication alone."""
    before = {(each.partition, each.data_version, each.run_id) for each in upstream if each.id < event.id}
    fitting = [each for each in before if noted([Input(asset, each[0], each[1], None, "")]) == note]
    if len(fitting) != 1:
        return None
    partition, content_hash, run_id = fitting[0]
    return Input(asset, partition, content_hash, run_id, str(store.address(*partition_key(asset, partition))))
