"""Demonstrations of a task: recorded from its scripted expert, or imported from a file."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.policy.keys import DEMONSTRATIONS
from assets.policy.recipes import demonstrations_recipe
from assets.policy.tasks import task_needs, task_of
from io_managers.content import file_hash
from io_managers.table_io_manager import materialised
from partitions import TASKS
from provenance.lineage import Input
from resources.compute.compute import Compute

DEMONSTRATION_CHECKS = {
    "valid": "shapes, lengths, env_args, masks and values are what robomimic and the task expect",
    "expert_succeeds": "the expert solved at least 80 % of its attempts; imported demonstrations pass with a note",
}


class DemonstrationsConfig(dg.Config):
    """Where demonstrations come from; what is not given is taken from `recipes.toml`."""

    source: str | None = Field(None, description="robomimic HDF5 to import instead of recording")
    rename: dict[str, str] = Field({}, description="observation keys of that file -> keys of the task")
    n: int | None = Field(None, ge=1, description="successful episodes to record")
    noise: float | None = Field(None, ge=0, description="standard deviation of the noise on executed actions")


@dg.asset(
    key=DEMONSTRATIONS,
    partitions_def=TASKS,
    io_manager_key="tables",
    group_name="policy",
    kinds={"mujoco", "hdf5"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(name, asset=DEMONSTRATIONS, description=text, blocking=name == "valid")
        for name, text in DEMONSTRATION_CHECKS.items()
    ],
)
def demonstrations(context: dg.AssetExecutionContext, config: DemonstrationsConfig, compute: Compute):
    """Demonstrations of one task in robomimic's HDF5: from the scripted expert, with every attempted seed and the
    expert's own success rate, or imported from a file; validated either way.
    """
    task = task_of(context)
    given = {name: value for name in ("n", "noise") if (value := getattr(config, name)) is not None}
    result = yield from compute.run(
        context,
        "workloads.demonstrations",
        inputs={},
        params={
            "task": task.key,
            "source": config.source,
            "rename": dict(config.rename),
            "recipe": demonstrations_recipe(task.key, given),
        },
        needs=task_needs(task),
    )
    files = [Input("file", config.source, file_hash(Path(config.source)), None, config.source)] if config.source else []
    yield materialised(replace(result.rows, files=files), result.metadata, result.checks)
