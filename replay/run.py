"""Replaying one value: its inputs into a scratch home, one run there, and the two results held against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from defs import build_defs
from home import Home
from io_managers.addresses import partition_key
from io_managers.artifacts import ArtifactStore
from io_managers.tables import TableStore
from materialise import materialise
from provenance.lineage import Record
from provenance.records import Records
from replay.compare import Comparison, compare
from replay.configuration import Configuration, configuration_of
from replay.environment import Job, differs
from replay.progress import Say, last_lines
from replay.refusals import ReplayFailed
from replay.scratch import Scratch, run_key, scratch_home
from replay.target import Target, definition_of, find_target
from replay.trainings import place_trainings
from resources.compute.compute import Compute

_INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass(frozen=True)
class Prepared:
    """A replay that can begin.

    Attributes
    ----------
    target : what is replayed.
    job : the job that computed it; empty where the run itself did, or where its directory is gone.
    configuration : what it is configured with.
    differs : what is not as it was, a line each.
    """

    target: Target
    job: Job
    configuration: Configuration
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """A replay that ended.

    Attributes
    ----------
    prepared : what it began with.
    comparison : both results held against each other.
    inputs_differ : inputs that only one of the two runs read, a line each.
    wall_s : time of the run.
    kept : the scratch folder, where it was to be kept.
    """

    prepared: Prepared
    comparison: Comparison
    inputs_differ: tuple[str, ...]
    wall_s: float
    kept: Path | None


def replay(
    home: Home,
    asset: str,
    partition: str = "",
    *,
    at: str | None = None,
    site: str = "",
    config_from_run: bool = False,
    keep: bool = False,
    on_prepared: Callable[[Prepared], object] = lambda _: None,
    on_progress: Say = lambda _: None,
) -> Replayed:
    """Compute a published value again from its record, and compare.

    Parameters
    ----------
    at : a moment (ISO 8601) or a run; None for the newest value.
    site : where its job runs; '' for where `sites.toml` has it.
    config_from_run : read the configuration from Dagster where an old record lacks it.
    keep : leave the scratch folder behind.
    on_prepared : called with what is replayed and what differs, before anything is computed.
    on_progress : called with a line of the job's log now and then.

    Raises
    ------
    UnknownValue, ReplayRefused
        When there is nothing that could be replayed, or an input is not there as it was read.
    ReplayFailed
        When the run failed.
    KeyboardInterrupt
        When it was interrupted; its job is ended and the scratch folder removed.
    """
    target = find_target(home, asset, partition, at)
    with scratch_home(home, _label(target), keep=keep) as scratch:
        job = target.recorded_job()
        # The number of threads decides the order of sums.
        needs = {"cpus": job["cpus"]} if job else {}
        compute = Compute(home=str(scratch.home.root), site=site, needs=needs)
        definitions = build_defs(home=scratch.home, compute=compute)
        definition = definition_of(definitions, asset)
        configuration = configuration_of(target, definition, from_run=config_from_run)
        inputs = scratch.place(target.record)
        place_trainings(scratch, target, inputs)
        prepared = Prepared(target, job, configuration, tuple(differs(target, definition)))
        on_prepared(prepared)
        started = time.monotonic()
        _run(scratch, prepared, definitions, on_progress)
        wall_s = time.monotonic() - started
        comparison = _compare(scratch, target)
        inputs_differ = tuple(_other_inputs(scratch, target.record))
        return Replayed(prepared, comparison, inputs_differ, wall_s, scratch.home.root if keep else None)


def _run(scratch: Scratch, prepared: Prepared, definitions: dg.Definitions, on_progress: Say) -> None:
    record = prepared.target.record
    definition = definition_of(definitions, record.asset)
    wanted = [*((each.asset, each.partition) for each in record.inputs), (record.asset, record.partition)]
    with (
        scratch.environment(prepared.configuration.files),
        dg.DagsterInstance.get() as instance,
        last_lines(scratch.home.jobs, on_progress),
    ):
        scratch.add_keys(instance, definitions, wanted)
        error = materialise(
            definitions,
            instance,
            definition.key,
            run_key(definition, record.partition),
            prepared.configuration.config,
        )
        # Dagster turns an interrupt into a failed run, and the job goes on without it.
        interrupted = scratch.end_jobs() > 0 or (error is not None and _INTERRUPTED in error)
    if interrupted:
        raise KeyboardInterrupt
    if error is not None:
        raise ReplayFailed(f"the replay of {prepared.target.title} failed, so nothing was compared: {error}")


def _compare(scratch: Scratch, target: Target) -> Comparison:
    key = partition_key(target.record.asset, target.record.partition)
    again = TableStore(scratch.home.tables).partition(*key).frame()
    return compare(target.schema, target.rows, again, target.artifacts, ArtifactStore(scratch.home.artifacts))


def _other_inputs(scratch: Scratch, record: Record) -> list[str]:
    """What only one of the two runs read: an asset that has become another reads otherwise."""
    (again,) = Records(TableStore(scratch.home.tables)).of(record.asset, record.partition)
    then, now = (
        {(each.asset, each.partition, each.content_hash) for each in which.inputs} for which in (record, again)
    )
    return [
        *(f"input {asset} [{partition}] was read then, not now" for asset, partition, _ in sorted(then - now)),
        *(f"input {asset} [{partition}] was read now, not then" for asset, partition, _ in sorted(now - then)),
    ]


def _label(target: Target) -> str:
    """A readable part of the scratch folder's name."""
    parts = [*target.record.asset.split("/")[1:], *target.record.partition.split("|")]
    return "-".join(part for part in parts if part)
