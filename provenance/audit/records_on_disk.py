"""The lineage records as an audit needs them: each read once, held against its own data version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from io_managers.content import content_hash
from io_managers.parquet_bytes import Unreadable, read_parquet, without_stamps
from io_managers.tables import TableStore
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.findings import Finding, Kind
from provenance.audit.tables_on_disk import FILE_NAME, Version, parquet_files
from provenance.lineage import FILE, Input, record_folder, record_key

_DEPTH = 5  # <asset>/<partition>/<hash>/<run>/data.parquet, and the older layout that begins with the run
_REBUILD = "`tracebed lineage rebuild` writes it again from the event log, once the file is moved away"


@dataclass(frozen=True, slots=True)
class RecordFile:
    """One lineage record.

    Attributes
    ----------
    path : the file.
    asset, partition, content_hash, run_id, code_version : as in `provenance.lineage.Record`.
    recorded_at : seconds since 1970.
    inputs : everything that was read, source files included.
    digest : hash of the whole record, as its event carries it; empty for one of older code, which had no `config`.
    found_hash, expected_hash : content hash of its rows, and its own data version.
    problem : why it cannot be read; empty where it can. Asset and partition are those of its folder then.
    """

    path: str
    asset: str = ""
    partition: str = ""
    content_hash: str = ""
    run_id: str = ""
    code_version: str = ""
    recorded_at: float = 0.0
    inputs: tuple[Input, ...] = ()
    digest: str = ""
    found_hash: str = ""
    expected_hash: str = ""
    problem: str = ""

    @property
    def version(self) -> Version:
        """The publication that it tells of."""
        return self.asset, self.partition, self.content_hash, self.run_id

    @property
    def read(self) -> tuple[Input, ...]:
        """The inputs that are no source files."""
        return tuple(each for each in self.inputs if each.asset != FILE)

    @property
    def parents(self) -> tuple[Version, ...]:
        """The publications that it read, in the order of ``read``."""
        return tuple((each.asset, each.partition, each.content_hash, each.run_id or "") for each in self.read)


def read_records(tables: Path, memory: Memory) -> list[RecordFile]:
    """Every lineage record, in any order; records that cannot be read among them."""
    root = tables / "lineage"
    found = []
    for entry in parquet_files(root):
        if entry.name != FILE_NAME or entry.path[len(str(root)) :].count("/") != _DEPTH:
            continue
        try:
            said = json.loads(memory.recall(entry.path, _read, entry.stat()))
        except FileNotFoundError:
            continue
        if "problem" in said:
            asset, partition = Path(entry.path).parts[-_DEPTH : -_DEPTH + 2]
            said |= {
                "asset": asset.replace(".", "/"),
                "partition": "" if partition == "all" else partition.replace("--", "|"),
            }
        inputs = tuple(Input(*each) for each in said.pop("inputs", ()))
        found.append(RecordFile(entry.path, inputs=inputs, **said))
    return found


def record_is_there(store: TableStore, version: Version) -> bool:
    """Whether there is a file of a record at this moment, readable or not: it may be younger than what was listed."""
    return bool(version[2] and version[3]) and store.address("lineage", record_key(*version)).exists()


def digest_of(described: dict[str, Any]) -> str:
    """Hash of a record as `Record.described` gives it, and as its event carries it."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def describe(path: str | Path) -> dict[str, Any]:
    """The record in a file, as `Record.described` gives it.

    Raises
    ------
    Unreadable
        When there is none in it.
    """
    return _described(read_parquet(path)[1])


def _described(frame: pl.DataFrame) -> dict[str, Any]:
    try:
        rows = frame.to_dicts()
        first = rows[0]
        return {
            **{name: first[name] for name in ("asset", "partition", "content_hash", "run_id", "address")},
            **{name: first[name] for name in ("code_version", "git_commit", "job_key", "node")},
            "versions": json.loads(first["versions"]),
            "config": json.loads(first.get("config") or "null"),
            "recorded_at": first["recorded_at"].isoformat(),
            "inputs": [_input(row) for row in rows if row["input_asset"] is not None],
        }
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise Unreadable(f"it is no lineage record: {type(error).__name__} {error}") from error


def _read(path: str) -> str:
    try:
        metadata, frame = read_parquet(path)
        described = _described(frame)
        found = content_hash(without_stamps(frame))
    except Unreadable as error:
        return json.dumps({"problem": str(error)})
    except TypeError as error:
        return json.dumps({"problem": f"it is no lineage record: {error}"})
    return json.dumps(
        {
            **{name: described[name] for name in ("asset", "partition", "content_hash", "run_id", "code_version")},
            "recorded_at": datetime.fromisoformat(described["recorded_at"]).timestamp(),
            "inputs": [list(each.values()) for each in described["inputs"]],
            "digest": digest_of(described) if "config" in frame.columns else "",
            "found_hash": found,
            "expected_hash": metadata.get("tracebed.data_version", "the data version of its metadata, which is gone"),
        }
    )


def _input(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "asset": row["input_asset"],
        "partition": row["input_partition"],
        "content_hash": row["input_hash"],
        "run_id": row["input_run_id"],
        "address": row["input_address"],
    }


def records_as_written(records: Sequence[RecordFile]) -> Iterator[Finding]:
    """Records that cannot be read, were edited, or lie where another belongs."""
    for each in records:
        if each.problem:
            yield Finding(
                Kind.DAMAGED_TABLE,
                each.asset,
                each.partition,
                each.path,
                each.problem,
                "a lineage record",
                _REBUILD,
            )
        elif each.found_hash != each.expected_hash:
            yield Finding(
                Kind.EDITED_TABLE,
                each.asset,
                each.partition,
                each.path,
                f"a lineage record whose rows have content hash {each.found_hash}",
                f"{each.expected_hash}, as it was written",
                f"the record was edited afterwards; {_REBUILD}",
            )
        elif not _in_its_place(each):
            yield Finding(
                Kind.MISPLACED_TABLE,
                each.asset,
                each.partition,
                each.path,
                f"the lineage record of {each.asset} [{each.partition}], content {each.content_hash[:12]}, run "
                f"{each.run_id}",
                "the record that its folders name",
                "it was copied or moved by hand: move it back, or delete the copy",
            )


def _in_its_place(each: RecordFile) -> bool:
    folder = "/".join(record_folder(each.asset, each.partition))
    content = each.content_hash[:16]
    place = Path(each.path).parent.as_posix()
    return place.endswith((f"/{folder}/{content}/{each.run_id}", f"/{each.run_id}/{folder}/{content}"))


def moment(seconds: float) -> str:
    """A time as a person reads it."""
    from datetime import UTC

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
