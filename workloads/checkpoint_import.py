"""Takes in a checkpoint that was trained elsewhere: read without running anything in it, unless told so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from io_managers.content import file_hash
from io_managers.schemas import table
from science.robots.policies.base import Inspected, PolicyError, PolicySpec, called
from science.robots.policies.registry import find_policy
from science.robots.tasks.registry import find_task
from workloads.job import Job, open_job
from workloads.weights_origin import UNREADABLE_WEIGHTS, origin_columns


def main() -> None:
    """Run the job."""
    with open_job() as job:
        source = Path(job.params["path"])
        task, spec = find_task(job.params["task"]), find_policy(job.params["policy"])
        if spec.inspect is None:
            raise PolicyError(f"policy {spec.name!r} takes no checkpoints from elsewhere: its spec has no `inspect`")
        path = _plain(job, spec, source) if job.params["trusted"] else source
        info: Inspected = called(spec.inspect, path)
        spec.make(task, path)
        digest = file_hash(path)
        origin = origin_columns(job, spec, path, info.settings, ()) if spec.weights else UNREADABLE_WEIGHTS
        row = {
            "suite": task.suite,
            "task": task.name,
            "policy": spec.name,
            "checkpoint_hash": digest,
            "checkpoint_artifact": job.keep_copy(path),
            "origin": "EXTERNAL",
            "attempt": f"import-{digest[:12]}",
            "step": info.step,
            "chosen": True,
            "loss": None,
            "selection_successes": None,
            "selection_n": None,
            "seed": info.seed,
            "demonstrations_hash": info.data_hash,
            "config_hash": None,
            "settings": json.dumps(dict(info.settings), sort_keys=True),
            "versions": json.dumps(dict(info.versions), sort_keys=True),
            "git_commit": None,
            "source": str(source),
            **origin,
            "recorded_at": datetime.now(UTC),
        }
        job.check("complete", True, {"step": "not said" if info.step is None else info.step})
        job.check("loss_fell", True, {"note": "imported: there is no curve"}, blocking=False)
        schema = {column.name: column.dtype for column in table("checkpoint").columns}
        metadata = {"origin": "EXTERNAL", "source": str(source), "checkpoint_hash": digest}
        job.publish(pl.DataFrame([row], schema=schema), metadata)


def _plain(job: Job, spec: PolicySpec, source: Path) -> Path:
    """The checkpoint without code in it; what it brings is run to find that out."""
    if spec.rewrite_trusted is None:
        raise PolicyError(f"found trusted for policy {spec.name!r}, whose checkpoints hold no code; leave it out")
    path = job.directory / f"imported{source.suffix}"
    called(spec.rewrite_trusted, source, path)
    return path


if __name__ == "__main__":
    main()
