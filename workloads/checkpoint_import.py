"""Takes in a BC-RNN checkpoint that was trained elsewhere: read without running anything in it, unless told so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from io_managers.content import file_hash
from io_managers.schemas import table
from science.robots.bc_rnn.checkpoint import inspect_checkpoint
from science.robots.bc_rnn.trusted import rewrite_as_plain_data
from science.robots.policies.registry import find_policy
from science.robots.tasks.registry import find_task
from workloads.job import open_job


def main() -> None:
    """Run the job."""
    with open_job() as job:
        source = Path(job.params["path"])
        task = find_task(job.params["task"])
        if job.params["trusted"]:
            path = job.directory / f"imported{source.suffix}"
            rewrite_as_plain_data(source, path)
        else:
            path = source
        info = inspect_checkpoint(path)
        find_policy(job.params["policy"]).make(task, path)
        digest = file_hash(path)
        row = {
            "suite": task.suite,
            "task": task.name,
            "policy": job.params["policy"],
            "checkpoint_hash": digest,
            "checkpoint_artifact": job.keep_copy(path),
            "origin": "EXTERNAL",
            "attempt": f"import-{digest[:12]}",
            "step": info.step,
            "chosen": True,
            "loss": None,
            "selection_successes": None,
            "selection_n": None,
            "seed": info.settings.get("seed"),
            "demonstrations_hash": info.data_sha256,
            "config_hash": None,
            "settings": json.dumps(
                {
                    **info.settings,
                    "observation": dict(info.observation),
                    "seq_length": info.seq_length,
                    "rnn_horizon": info.rnn_horizon,
                    "normalised": info.normalised,
                    "env_name": info.env_name,
                },
                sort_keys=True,
            ),
            "versions": json.dumps(dict(info.versions), sort_keys=True),
            "git_commit": None,
            "source": str(source),
            "recorded_at": datetime.now(UTC),
        }
        job.check("complete", True, {"step": "not said" if info.step is None else info.step})
        job.check("loss_fell", True, {"note": "imported: there is no curve"}, blocking=False)
        schema = {column.name: column.dtype for column in table("checkpoint").columns}
        metadata = {"origin": "EXTERNAL", "source": str(source), "checkpoint_hash": digest}
        job.publish(pl.DataFrame([row], schema=schema), metadata)


if __name__ == "__main__":
    main()
