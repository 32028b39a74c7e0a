"""Whether a lineage record and its event tell the same: content, code, the record that the event carries, and inputs.

Dagster notes the versions of the inputs when a step begins, the record notes what was loaded: two witnesses. For an
unpartitioned input Dagster's note is its data version; for a partitioned one the SHA-256 over those of all partitions
that were read, in the order of their keys; from 100 partitions on, the version of the latest event of any of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from provenance.audit.events import Event, lineage_of
from provenance.audit.findings import Finding, Kind
from provenance.audit.records_on_disk import RecordFile, describe
from provenance.lineage import Input

if TYPE_CHECKING:
    import dagster as dg

Difference = tuple[str, str, str]
"""What was found, what was expected, what to do."""

LATEST_ONLY = "Dagster notes only the latest version where an input has 100 or more partitions"
BEGAN_BEFORE = "an input was published again between the start of the run and its reading: Dagster notes the former"


def noted(read: Sequence[Input]) -> str:
    """What Dagster notes as the input data version of one upstream asset, of which these partitions were read."""
    versions = {each.partition: each.content_hash for each in read}
    if list(versions) == [""]:
        return versions[""]
    return hashlib.sha256("".join(versions[key] for key in sorted(versions)).encode()).hexdigest()


def disagreement(record: RecordFile, difference: Difference) -> Finding:
    """The finding of a difference."""
    return Finding(Kind.DISAGREEMENT, record.asset, record.partition, record.path, *difference)


@dataclass(frozen=True)
class Agreement:
    """Compares records with their events; ``events`` are all of the log, in the order of their ids."""

    instance: dg.DagsterInstance
    events: Sequence[Event]

    def differences(self, record: RecordFile, event: Event) -> Iterator[Difference | str]:
        """Every difference; or, as a text, why an input could not be compared."""
        if event.code_version not in (record.code_version, record.run_id):
            yield (
                f"code version {event.code_version!r} in event {event.id}",
                f"{record.code_version!r}, as in the record",
                "one of both was changed after the run: materialise the partition again",
            )
        if event.digest and record.digest and event.digest != record.digest:
            yield (
                f"another record in event {event.id}: {self._differing(record, event)}",
                "the record that the run also wrote into its event",
                "one of both was changed after the run: move the record away, and `tracebed lineage rebuild` writes "
                "the event's",
            )
        for asset, note in event.inputs.items():
            read = [each for each in record.inputs if each.asset == asset]
            if not read or asset == record.asset or note == noted(read):
                continue
            yield self._why(event, asset, note, read) or _input_difference(event, asset, note, read)

    def _differing(self, record: RecordFile, event: Event) -> str:
        carried = lineage_of(self.instance, event.id) or {}
        told = describe(record.path)
        return ", ".join(name for name in carried if _plain(carried[name]) != _plain(told.get(name))) + " differ"

    def _why(self, event: Event, asset: str, note: str, read: Sequence[Input]) -> str:
        """Why Dagster may note something else than what was read; empty where it should not."""
        before = [each for each in self._by_asset.get(asset, ()) if each.id < event.id]
        if any(each.partition for each in read) and any(note == each.data_version for each in before):
            return LATEST_ONLY
        run = self.instance.get_run_record_by_id(event.run_id)
        began = run.start_time if run is not None and run.start_time is not None else event.at
        recorded = {each.partition: each.content_hash for each in read}
        meanwhile = [each for each in before if each.at > began and each.partition in recorded]
        published = {(each.partition, each.data_version) for each in meanwhile}
        for moment in (began, *(each.at for each in meanwhile)):
            then = {each.partition: each.data_version for each in before if each.at <= moment}
            known = {key: then[key] for key in recorded if key in then}
            since = {(key, version) for key, version in recorded.items() if known.get(key) != version}
            if since <= published and note == noted([Input(asset, *each, None, "") for each in known.items()]):
                return BEGAN_BEFORE
        return ""

    @cached_property
    def _by_asset(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            found[event.asset].append(event)
        return found


def _input_difference(event: Event, asset: str, note: str, read: Sequence[Input]) -> Difference:
    versions = ", ".join(f"[{each.partition}] {each.content_hash[:12]}" for each in read[:5])
    more = f" and {len(read) - 5} more" if len(read) > 5 else ""
    return (
        f"input data version {note[:12]} of {asset} in event {event.id}",
        f"{noted(read)[:12]}, from what the record says was read: {versions}{more}",
        "the record or the event was changed after the run: hold both against the versions of the input, and "
        "materialise the partition again",
    )


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
