"""What nothing refers to: old versions and artifacts that no kept number reaches.

Kept are the newest version of every partition, every version of a metric (somebody may have printed it), and whatever
their lineage leads to. Nothing is removed while a record of that lineage is lost or a run is under way (it may read an
old version, or not have published its rows yet), nor what is young. Jobs, trainings and episodes are left alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from files import DRAFT_PREFIX
from home import Home
from io_managers.addresses import table_of
from io_managers.derived_views import SUPERSEDED
from io_managers.publish import sweep
from io_managers.schemas import TABLES
from io_managers.tables import TablePartition, TableStore
from provenance.lineage import FILE
from provenance.records import Records
from resources.compute.job_directory import open_jobs

if TYPE_CHECKING:
    import dagster as dg

METRICS = frozenset({*SUPERSEDED, "benchmark_policy_pairs"})

_REPLAY_S = 24 * 3600.0
"""How long the scratch of a replay that shows no sign of life is left alone, whatever was asked for."""

_Version = tuple[str, str, str, str]


class LostLineage(ValueError):
    """Records that are lost, so that nobody can say what a kept number reaches."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing refers to."""

    path: Path
    size_bytes: int
    what: str


def find_garbage(home: Home, older_than_s: float = 24 * 3600.0) -> list[Garbage]:
    """Everything that nothing refers to, older than ``older_than_s``; nothing is removed.

    Raises
    ------
    LostLineage
        When a kept number's chain of records has a gap: what it reaches is not known then.
    """
    store = TableStore(home.tables)
    versioned = [name for name, schema in TABLES.items() if schema.versioned]
    every = {_identity(each): each for name in versioned for each in store.every_version(name)}
    newest = [_identity(each) for name in versioned for each in store.partitions(name)]
    numbers = [identity for identity, each in every.items() if table_of(each.asset)[0] in METRICS]
    kept = _reached(store, [*newest, *numbers])
    youngest = time.time() - older_than_s

    def is_old(path: Path) -> bool:
        return path.stat().st_mtime < youngest

    old = [each for identity, each in every.items() if identity not in kept and is_old(each.address)]
    left = every.keys() - {_identity(each) for each in old}
    referred = _artifacts([every[identity] for identity in left])
    found = [
        Garbage(each.address, each.address.stat().st_size, f"old version of {each.asset} [{each.partition}]")
        for each in old
    ]
    found += [
        Garbage(path, path.stat().st_size, "artifact that no kept row points to")
        for path in sorted(home.artifacts.glob("??/*"))
        if path.name not in referred and not path.name.startswith(DRAFT_PREFIX) and is_old(path)
    ]
    found += [
        Garbage(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), "scratch of a replay")
        for folder in sorted((home.root / "scratch").glob("*"))
        if max(each.stat().st_mtime for each in (folder, *folder.rglob("*"))) < min(youngest, time.time() - _REPLAY_S)
    ]
    return found


def under_way(home: Home, instance: dg.DagsterInstance) -> list[str]:
    """Runs and jobs that are not over, in words: while there are any, nothing may be removed."""
    import dagster as dg

    over = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    wanted = dg.RunsFilter(statuses=[each for each in dg.DagsterRunStatus if each not in over])
    runs = [f"run {each.run_id} ({each.status.value})" for each in instance.get_runs(wanted, limit=10)]
    return runs + [f"job {each.path.name}" for each in open_jobs(home.jobs)[:10]]


def remove(home: Home, garbage: Sequence[Garbage]) -> None:
    """Remove what `find_garbage` found, and drafts that dead writers left behind."""
    for each in garbage:
        if each.path.is_dir():
            shutil.rmtree(each.path)
        else:
            each.path.unlink(missing_ok=True)
    for folder in (home.tables, home.artifacts):
        sweep(folder)


def _reached(store: TableStore, roots: Sequence[_Version]) -> set[_Version]:
    """The roots, and all versions that their records lead to."""
    records = {(each.asset, each.partition, each.content_hash, each.run_id): each for each in Records(store).all()}
    reached: set[_Version] = set()
    lost: list[_Version] = []
    to_follow = list(roots)
    while to_follow:
        version = to_follow.pop()
        if version in reached:
            continue
        reached.add(version)
        if version in records:
            inputs = [each for each in records[version].inputs if each.asset != FILE]
            to_follow += [(each.asset, each.partition, each.content_hash, each.run_id or "") for each in inputs]
        elif "/" in version[0]:  # a registration has no record
            lost.append(version)
    if lost:
        listed = "\n".join(
            f"  - {asset} [{key}], content {content[:12]}, run {run}" for asset, key, content, run in lost[:20]
        )
        raise LostLineage(
            f"the records of {len(lost)} kept versions are lost, so what they reach is not known and nothing was "
            f"removed; `tracebed lineage rebuild` looks for them in the event log:\n{listed}"
        )
    return reached


def _identity(each: TablePartition) -> _Version:
    return each.asset, each.partition, each.data_version, each.run_id


def _artifacts(kept: Sequence[TablePartition]) -> set[str]:
    """The names of all artifacts that rows of these versions point to."""
    names: set[str] = set()
    for each in kept:
        rows = each.stamped()
        names.update(
            name for column in rows.columns if column.endswith("_artifact") for name in rows[column].drop_nulls()
        )
    return names
