"""Dagster's event log, read in bulk: every materialisation, and in which of its two places the log has it.

Dagster's SQLite storage keeps an event twice: in the log of its run (`<run>.db`) and, for queries over all runs, in
`index.db`. Ids are listed anew each time, so that a deleted row is noticed; an event is deserialised once and then
remembered. Other storages (Postgres) have one place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from files import write_whole
from provenance.audit.records_on_disk import digest_of
from provenance.audit.run_logs import Place, read_run_logs
from provenance.lineage import LINEAGE_METADATA

if TYPE_CHECKING:
    import dagster as dg

AT_A_TIME = 500
"""Ids of one query: SQLite allows few variables."""

_INPUT_TAG = "dagster/input_data_version/"
_COLUMNS = ("id", "run_id", "asset", "partition", "at", "data_version", "code_version", "inputs", "digest", "problem")
_SCHEMA = {name: pl.String() for name in _COLUMNS} | {"id": pl.Int64(), "at": pl.Float64()}


@dataclass(frozen=True, slots=True)
class Event:
    """One materialisation in the event log.

    Attributes
    ----------
    id : its row in the log.
    run_id, asset, partition : what was materialised, '' for no partition.
    at : seconds since 1970.
    data_version, code_version : its tags.
    inputs : asset -> the input data version that Dagster noted.
    digest : hash of the lineage record that it carries; empty where it carries none.
    problem : why the row cannot be read; empty where it can.
    """

    id: int
    run_id: str
    asset: str
    partition: str
    at: float
    data_version: str
    code_version: str
    inputs: Mapping[str, str]
    digest: str
    problem: str


@dataclass(frozen=True)
class EventLog:
    """What the event log holds.

    Attributes
    ----------
    events : in the order of their ids.
    began : when its first row of any kind was written; None where it is empty.
    only_in_run : (run, asset, partition) -> materialisations that are in the run's log but no longer in the index.
    only_in_index : the reverse.
    lost_run_logs : runs in the index whose own log is gone.
    where : the database, for a person.
    """

    events: Sequence[Event] = ()
    began: float | None = None
    only_in_run: Mapping[Place, int] = field(default_factory=dict)
    only_in_index: Mapping[Place, int] = field(default_factory=dict)
    lost_run_logs: frozenset[str] = frozenset()
    where: str = ""


def read_event_log(instance: dg.DagsterInstance, folder: Path, *, full: bool = False) -> EventLog:
    """The event log of an instance; what was read before is remembered in ``folder``."""
    from dagster._core.storage.event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return EventLog()
    remembered = folder / "events.parquet"
    known = {} if full else _load(remembered)
    listed = _listed(storage)
    wanted = [number for number, row in listed.items() if number not in known or _place(known[number]) != row]
    known |= {event.id: event for event in _events(storage, wanted, listed)}
    events = [known[number] for number in listed if number in known]
    if wanted or len(known) != len(events):
        write_whole(remembered, partial(_write, events))
    log = EventLog(events, _began(storage), where=_where(storage))
    return _held_against_runs(storage, log, folder, full) if storage.is_run_sharded else log


def lineage_of(instance: dg.DagsterInstance, event_id: int) -> dict[str, Any] | None:
    """The lineage record that an event carries, as `Record.described` gave it; None where it carries none."""
    from dagster._core.storage.event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return None
    for _, text in _texts(storage, [event_id]):
        return _carried(_materialization(_entry(text)))
    return None


def _listed(storage: Any) -> dict[int, Place]:
    """Id -> (run, asset, partition) of every materialisation."""
    import sqlalchemy as db
    from dagster._core.events import DagsterEventType
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Rows

    columns = (Rows.c.id, Rows.c.run_id, Rows.c.asset_key, Rows.c.partition)
    wanted = db.select(*columns).where(Rows.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value)
    with storage.index_connection() as connection:
        rows = connection.execute(wanted.order_by(Rows.c.id)).fetchall()
    names: dict[str, str] = {}
    return {
        number: (run, names.get(key) or names.setdefault(key, _asset(key)), where or "")
        for number, run, key, where in rows
    }


def _asset(key: str) -> str:
    """`["spatial", "section"]` -> spatial/section."""
    return "/".join(json.loads(key or "[]"))


def _began(storage: Any) -> float | None:
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Rows

    with storage.index_connection() as connection:
        first = connection.execute(db.select(Rows.c.timestamp).order_by(Rows.c.id).limit(1)).scalar()
    return first.replace(tzinfo=UTC).timestamp() if first is not None else None


def _texts(storage: Any, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Rows

    for first in range(0, len(ids), AT_A_TIME):
        wanted = db.select(Rows.c.id, Rows.c.event).where(Rows.c.id.in_(ids[first : first + AT_A_TIME]))
        with storage.index_connection() as connection:
            rows = connection.execute(wanted).fetchall()
        yield from ((number, text) for number, text in rows)


def _events(storage: Any, ids: Sequence[int], listed: Mapping[int, Place]) -> Iterator[Event]:
    from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

    for number, text in _texts(storage, ids):
        try:
            entry = _entry(text)
            materialization = _materialization(entry)
        except (ValueError, AttributeError) as error:
            problem = f"row {number} of the event log cannot be read: {type(error).__name__}"
            yield Event(number, *listed[number], 0.0, "", "", {}, "", problem)
            continue
        tags = materialization.tags or {}
        carried = _carried(materialization)
        yield Event(
            number,
            *listed[number],
            entry.timestamp,
            tags.get(DATA_VERSION_TAG, ""),
            tags.get(CODE_VERSION_TAG, ""),
            {name.removeprefix(_INPUT_TAG): tags[name] for name in tags if name.startswith(_INPUT_TAG)},
            digest_of(carried) if carried is not None else "",
            "",
        )


def _entry(text: str) -> Any:
    """The log entry of a row.

    Raises
    ------
    ValueError
        When it is none.
    """
    from dagster._core.events.log import EventLogEntry
    from dagster_shared.check import CheckError
    from dagster_shared.serdes import deserialize_value
    from dagster_shared.serdes.errors import DeserializationError

    try:
        return deserialize_value(text, EventLogEntry)
    except (DeserializationError, CheckError, TypeError) as error:
        raise ValueError(str(error)) from error


def _materialization(entry: Any) -> Any:
    return entry.dagster_event.step_materialization_data.materialization


def _carried(materialization: Any) -> dict[str, Any] | None:
    value = materialization.metadata.get(LINEAGE_METADATA)
    return value.value if value is not None else None


def _place(event: Event) -> Place:
    return event.run_id, event.asset, event.partition


def _where(storage: Any) -> str:
    path = getattr(storage, "path_for_shard", None)
    return path("index") if path else type(storage).__name__


def _held_against_runs(storage: Any, log: EventLog, folder: Path, full: bool) -> EventLog:
    in_index = Counter(_place(event) for event in log.events)
    in_runs, lost = read_run_logs(storage, {event.run_id for event in log.events}, folder / "run_logs.parquet", full)
    return replace(
        log,
        only_in_run={place: n - in_index[place] for place, n in in_runs.items() if n > in_index[place]},
        only_in_index={
            place: n - in_runs[place] for place, n in in_index.items() if n > in_runs[place] and place[0] not in lost
        },
        lost_run_logs=lost,
    )


def _load(path: Path) -> dict[int, Event]:
    try:
        frame = pl.read_parquet(path)
    except (FileNotFoundError, pl.exceptions.PolarsError):
        return {}
    if dict(frame.schema) != _SCHEMA:
        return {}
    return {row[0]: _event(row) for row in frame.iter_rows()}


def _event(row: tuple[Any, ...]) -> Event:
    number, run_id, asset, partition, at, data_version, code_version, inputs, digest, problem = row
    noted = json.loads(inputs)
    return Event(number, run_id, asset, partition, at, data_version, code_version, noted, digest, problem)


def _write(events: Sequence[Event], path: Path) -> None:
    rows = [
        (
            each.id,
            each.run_id,
            each.asset,
            each.partition,
            each.at,
            each.data_version,
            each.code_version,
            json.dumps(each.inputs),
            each.digest,
            each.problem,
        )
        for each in events
    ]
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(path)
