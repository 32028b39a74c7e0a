"""Records demonstrations of a task from its scripted expert, or imports them from a file; validates either."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from io_managers.content import file_hash
from io_managers.schemas import table
from science.robots.demonstration_checks import DemonstrationReport, validate_demonstrations
from science.robots.demonstration_import import ROBOSUITE_NAMES, import_demonstrations
from science.robots.demonstrations import Attempt, record_demonstrations, write_demonstrations
from science.robots.seeds import DEMONSTRATION
from science.robots.statistics import wilson
from science.robots.tasks.base import Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import environment_hash, find_task, require_available
from workloads.job import Job, open_job

MIN_EXPERT_RATE = 0.8
_ATTEMPTS_PER_DEMONSTRATION = 3
_SPLIT_SEED = 0


class NoExpert(ValueError):
    """A task without a scripted expert, and no file to import."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        task = find_task(job.params["task"])
        dataset = job.directory / "demonstrations.hdf5"
        attempts: Sequence[Attempt] = ()
        if source := job.params["source"]:
            rename = dict(job.params["rename"]) or ROBOSUITE_NAMES
            import_demonstrations(Path(source), dataset, task, rename=rename)
            settings = {"source": source, "source_hash": file_hash(Path(source)), "rename": dict(rename)}
        else:
            settings = dict(job.params["recipe"])
            attempts = _record(job, task, dataset, settings)
        report = validate_demonstrations(dataset, task)
        job.check("valid", True, {"demonstrations": report.n, "samples": report.n_samples})
        constants = {
            "suite": task.suite,
            "task": task.name,
            "origin": "imported" if source else "scripted",
            "settings": json.dumps(settings, sort_keys=True),
            "environment_hash": environment_hash(task),
            "dataset_artifact": job.keep(dataset),
        }
        _publish(job, [row | constants for row in _rows(report, attempts)], report, attempts)


def _record(job: Job, task: Task, dataset: Path, settings: Mapping[str, Any]) -> list[Attempt]:
    if task.expert is None:
        raise NoExpert(
            f"suite {task.suite} has no scripted expert for {task.name}: import demonstrations, with `source` in the "
            "launchpad of policy/demonstrations"
        )
    require_available(task)
    module, _, name = task.expert.partition(":")
    n = settings["n"]
    attempts: list[Attempt] = []

    def attempted(attempt: Attempt) -> None:
        attempts.append(attempt)
        kept = sum(each.kept for each in attempts)
        job.progress(min(0.99, kept / n), f"{kept} of {len(attempts)} episodes of the expert succeeded")

    simulation = make_simulation(task)
    try:
        recording = record_demonstrations(
            simulation,
            getattr(import_module(module), name)(task),
            DEMONSTRATION[: n * _ATTEMPTS_PER_DEMONSTRATION],
            n,
            on_attempt=attempted,
            **{key: value for key, value in settings.items() if key != "n"},
        )
        write_demonstrations(
            dataset,
            recording.demonstrations,
            simulation.env_args(),
            seed=_SPLIT_SEED,
            attributes=recording.attributes,
        )
    finally:
        simulation.close()
    return recording.attempts


def _rows(report: DemonstrationReport, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    split = {name: mask for mask, names in report.masks.items() for name in names}
    kept = [
        {"seed": seed, "kept": True, "demonstration": name, "split": split.get(name), "samples": samples}
        for name, seed, samples in zip(report.names, report.seeds or [None] * report.n, report.lengths, strict=True)
    ]
    lost = [
        {"seed": each.seed, "kept": False, "demonstration": None, "split": None, "samples": 0}
        for each in attempts
        if not each.kept
    ]
    return kept + lost


def _publish(job: Job, rows: list[dict[str, Any]], report: DemonstrationReport, attempts: Sequence[Attempt]) -> None:
    metadata: dict[str, Any] = {"demonstrations": report.n, "samples": report.n_samples, "origin": rows[0]["origin"]}
    rate = report.n / len(attempts) if attempts else None
    if rate is not None:
        interval = wilson(report.n, len(attempts))
        metadata |= {
            "expert_attempts": len(attempts),
            "expert_rate": rate,
            "expert_ci_low": interval.low,
            "expert_ci_high": interval.high,
        }
    job.check(
        "expert_succeeds",
        rate is None or rate >= MIN_EXPERT_RATE,
        {"rate": "imported: not known" if rate is None else rate},
        blocking=False,
    )
    schema = {column.name: column.dtype for column in table("demonstrations").columns}
    job.publish(pl.DataFrame(rows, schema=schema), metadata)


if __name__ == "__main__":
    main()
