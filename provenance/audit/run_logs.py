"""The logs of single runs: Dagster's SQLite storage keeps each run's events in a file of its own, beside the index."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Set
from contextlib import closing
from pathlib import Path
from typing import Any

from provenance.audit.bytes_on_disk import Memory

Place = tuple[str, str, str]
"""Run, asset and partition of a materialisation."""

_QUERY = """
SELECT asset_key, coalesce(partition, ''), count(*) FROM event_logs
WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key IS NOT NULL GROUP BY 1, 2"""


def read_run_logs(storage: Any, runs: Set[str], memory: Path, full: bool) -> tuple[Counter[Place], frozenset[str]]:
    """How often each run's own log has each materialisation; and which of ``runs`` have no log any more.

    The logs of other runs are read too: theirs may be the only place that still has an event.
    """
    known = Memory(memory, full=full)
    found: Counter[Place] = Counter()
    lost = set()
    folder = Path(storage.path_for_shard("index")).parent
    there = {entry.name.removesuffix(".db") for entry in os.scandir(folder) if entry.name.endswith(".db")} - {"index"}
    for run in sorted(runs | there):
        path = storage.path_for_shard(run)
        try:
            # What was written since the last checkpoint is in a file beside it, and its own stat does not change.
            settled = not Path(f"{path}-wal").exists()
            said = known.recall(path, _materialised_in) if settled else _materialised_in(path)
        except FileNotFoundError:
            lost.add(run)
            continue
        found.update({(run, "/".join(json.loads(key)), partition): n for key, partition, n in json.loads(said)})
    known.save()
    return found, frozenset(lost)


def _materialised_in(path: str) -> str:
    if not Path(path).exists():
        raise FileNotFoundError(path)
    try:
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            return json.dumps(connection.execute(_QUERY).fetchall())
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise
        return "[]"  # no log of a run, or a damaged one: it holds no event that can be read
