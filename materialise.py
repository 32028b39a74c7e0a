"""Materialising what a plan names: as ONE backfill that the daemon runs, or partition after partition in this process.

A plan says which partitions of which assets; `study.py` and `task_study.py` make plans.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from defs import build_defs
from home import Home

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

Plan = Mapping[dg.AssetKey, Sequence[str | None]]
Say = Callable[[str], object]
Config = Mapping[dg.AssetKey, Mapping[str, Any]]


class PlanError(ValueError):
    """Partitions that cannot be filled in."""


def require_daemon(instance: dg.DagsterInstance) -> None:
    """Refuse to hand over a backfill that nothing would ever start.

    Raises
    ------
    PlanError
        When no daemon runs on this home.
    """
    from dagster._daemon.controller import get_daemon_statuses

    if not get_daemon_statuses(instance, ["BACKFILL"])["BACKFILL"].healthy:
        raise PlanError("no daemon runs on this home, so nothing would start: run `make ui`, or give --here")


def submit(instance: dg.DagsterInstance, definitions: dg.Definitions, needed: Plan, title: str) -> str:
    """Store one asset backfill, which the daemon then runs; returns its id."""
    from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
    from dagster._core.definitions.events import AssetKeyPartitionKey
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster._core.utils import make_new_backfill_id

    wanted = {AssetKeyPartitionKey(key, partition) for key, each in needed.items() for partition in each}
    backfill_id = make_new_backfill_id()
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset.from_asset_partition_set(wanted, definitions.resolve_asset_graph()),
            title=title[:80],
            description=None,
            run_config=None,
        )
    )
    return backfill_id


def run_here(
    home: Home,
    instance: dg.DagsterInstance,
    needed: Plan,
    say: Say,
    *,
    takes_what_there_is: Collection[dg.AssetKey] = (),
    config: Config | None = None,
) -> bool:
    """Materialise a plan in this process, in the order of the graph; returns whether all of it succeeded.

    A partition that fails stops what is made from it, and nothing else; assets of ``takes_what_there_is`` are made
    nevertheless. ``config`` is the launchpad's, by asset.
    """
    definitions = build_defs(home=home)
    graph = definitions.resolve_asset_graph()
    failed: dict[dg.AssetKey, set[str]] = defaultdict(set)
    total, done = sum(len(each) for each in needed.values()), 0
    for key in [key for key in graph.toposorted_asset_keys if key in needed]:
        for partition in needed[key]:
            done += 1
            label = f"[{done}/{total}] {key.to_user_string()}" + (f" [{partition}]" if partition else "")
            if key not in takes_what_there_is and built_on_failure(graph, key, partition, failed):
                failed[key].add(partition or "")
                say(f"{label}  skipped: what it is made from failed")
                continue
            started = time.monotonic()
            error = materialise(definitions, instance, key, partition, (config or {}).get(key))
            say(f"{label}  {f'FAILED: {error}' if error else f'{time.monotonic() - started:.1f} s'}")
            if error:
                failed[key].add(partition or "")
    return not failed


def built_on_failure(
    graph: AssetGraph, key: dg.AssetKey, partition: str | None, failed: Mapping[dg.AssetKey, set[str]]
) -> bool:
    """Whether a partition that this one reads has failed."""
    reads = {"", partition or "", *(partition or "").split("|")}
    node = graph.get(key)
    for parent in node.parent_keys:
        mapping = node.partition_mappings.get(parent)
        cohort = mapping.partition_keys if isinstance(mapping, dg.SpecificPartitionsPartitionMapping) else ()
        if failed.get(parent, set()) & {*reads, *cohort}:
            return True
    return False


def materialise(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partition: str | None,
    config: Mapping[str, Any] | None = None,
) -> str | None:
    """One run of one partition; returns the error's message, or None."""
    job = definitions.resolve_implicit_global_asset_job_def()
    name = definitions.resolve_assets_def(key).op.name
    ops = {"ops": {name: {"config": dict(config)}}} if config else {}
    with _quiet_console():
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[key],
            partition_key=partition,
            raise_on_error=False,
            run_config={**ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    if result.success:
        return None
    data = next((event.step_failure_data for event in result.all_events if event.is_step_failure), None)
    if data is not None and data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error if data is not None else None
    while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause  # Dagster's own wrapper says only in which step it happened
    return error.message.strip() if error is not None else "the run failed; see its log in the UI"


@contextlib.contextmanager
def _quiet_console() -> Iterator[None]:
    """Keep a run's log off the terminal, and in the run: Dagster captures the descriptor, not `sys.stdout`."""
    sys.stdout.flush()
    terminal = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(terminal, 1)
        os.close(terminal)
        os.close(nowhere)
