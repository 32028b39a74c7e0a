"""Rollouts of one policy: episodes of the task on evaluation seeds, unperturbed and perturbed."""

from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from assets.policy.keys import policy_key
from assets.policy.tasks import task_needs, task_of
from io_managers.schemas import table
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition
from partitions import TASKS
from provenance.lineage import Input
from resources.compute.compute import Compute
from science.robots.policies.base import PolicySpec

ARMS = ["control", "drop", "shift", "push", "freeze"]

ROLLOUT_CHECKS = {
    "few_errors": "no episode raised; errors are in no rate, and more than 10 % of them fail this check",
    "expert_succeeds": "the scripted expert solves some of the same seeds through the very same evaluator",
    "not_solved_at_reset": "no episode began with the task already solved",
}


class RolloutConfig(dg.Config):
    """Which episodes are run."""

    n: int = Field(20, ge=1, description="seeds an arm")
    first_seed: int = Field(0, ge=0, description="first evaluation seed")
    arms: list[str] = Field(ARMS, description="control, and the perturbations that are paired with it")
    step: int | None = Field(None, description="evaluate this kept step instead of the chosen checkpoint")
    workers: int | None = Field(None, ge=1, description="worker processes; default: one a core")
    time_limit_s: float = Field(300.0, gt=0, description="an episode that takes longer is an error")
    engine: str | None = Field(None, description="robosuite or exact; default: the fastest verified for the task")
    expert_seeds: int = Field(3, ge=0, description="seeds that the scripted expert runs through the same evaluator")
    retry_errors: bool = Field(False, description="run episodes again that ended in an error")


def build_rollouts(policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/rollouts/<policy>`."""
    key = policy_key("rollouts", policy.name)
    source = {"checkpoint": dg.AssetIn(policy_key("checkpoint", policy.name))} if policy.trained else {}

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins=source,
        io_manager_key="tables",
        group_name="policy",
        kinds={"mujoco", "parquet"},
        code_version=f"1-{policy.version}",
        description=(
            f"Episodes of `{policy.name}` on one task: {policy.description} One row a seed and arm, with outcome, "
            "stage and hashes. Episodes that were run before are kept and not run again; other checkpoints' rows stay."
        ),
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, description=text)
            for name, text in ROLLOUT_CHECKS.items()
            if name != "expert_succeeds" or not policy.control
        ],
    )
    def rollouts(
        context: dg.AssetExecutionContext,
        config: RolloutConfig,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        **inputs: TablePartition,
    ):
        task = task_of(context)
        earlier = earlier_rows(context, tables)
        result = yield from compute.run(
            context,
            "workloads.rollouts",
            inputs=inputs,
            params={
                "task": task.key,
                "policy": policy.name,
                "expert_seeds": 0 if policy.control else config.expert_seeds,
                **config.model_dump(exclude={"expert_seeds"}),
            },
            needs=task_needs(task, *policy.packages, cpus=config.workers or 2, memory_gb=6),
        )
        rows = with_earlier(result.rows, earlier, "rollouts", ["evaluation", "arm", "seed"])
        yield materialised(rows, {**result.metadata, "rows_of_all_evaluations": rows.frame.height}, result.checks)

    return rollouts


def earlier_rows(context: dg.AssetExecutionContext, tables: TableIOManager) -> TablePartition | None:
    """What this partition published before; looked at before any work is done.

    Raises
    ------
    dagster.Failure
        When it is damaged: its rows would be lost.
    """
    try:
        earlier = tables.own_partition(context)
        earlier.frame()
    except MissingPartition:
        return None
    except (DamagedPartition, pl.exceptions.PolarsError) as damage:
        raise dg.Failure(
            f"what this partition published before cannot be read, and would be lost: {damage}. Move that file away to "
            "begin a new table partition without its rows",
            allow_retries=False,
        ) from damage
    return earlier


def with_earlier(new: Rows, earlier: TablePartition | None, name: str, identity: list[str], **changed: Any) -> Rows:
    """New rows of table ``name``, and after them the earlier ones of another ``identity``; nothing is overwritten.

    ``changed`` sets columns of the earlier rows (`chosen=False`). Columns that the table did not have then are null.
    """
    if earlier is None:
        return replace(new, replaces="")
    schema = {column.name: column.dtype for column in table(name).columns}
    kept = earlier.frame().join(new.frame.select(identity), on=identity, how="anti", nulls_equal=True)
    kept = kept.with_columns(**{column: pl.lit(value) for column, value in changed.items()})
    merged = pl.concat([new.frame, kept], how="diagonal").select(
        pl.col(column).cast(dtype)
        if column in {*new.frame.columns, *kept.columns}
        else pl.lit(None, dtype).alias(column)
        for column, dtype in schema.items()
    )
    return replace(new, frame=merged, files=[*new.files, Input.of(earlier)], replaces=earlier.data_version)
