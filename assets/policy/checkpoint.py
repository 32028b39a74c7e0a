"""Checkpoints of one policy: trained on a node under an explicit intent, or imported from a file."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.policy.keys import DEMONSTRATIONS, policy_key
from assets.policy.recipes import recipe
from assets.policy.rollouts import with_earlier
from assets.policy.tasks import task_of
from home import Home
from io_managers.content import file_hash
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from provenance.lineage import Input
from resources.compute.compute import Compute
from resources.compute.interface import Needs
from resources.training import Attempt, Intent, IntentRefused, begin_attempt, plan_training
from science.robots.policies.base import PolicySpec

CHECKPOINT_CHECKS = {
    "complete": "the last step that was asked for was reached, and every kept checkpoint was read back",
    "loss_fell": "the mean loss of the last tenth of the steps is below that of the first tenth",
}


class CheckpointConfig(dg.Config):
    """How to train, or what to import; what is not given is taken from `recipes.toml`."""

    intent: str | None = Field(None, description="fresh or resume; needed as soon as an attempt is known")
    resume_step: int | None = Field(None, description="the step that a resume expects to find")
    resume_steps: dict[str, int] = Field({}, description="the same by task, for a backfill: {task: step}")
    overrides: dict[str, Any] = Field({}, description="training parameters over those of recipes.toml")
    external: str | None = Field(None, description="import this checkpoint instead of training")
    trusted: bool = Field(False, description="the imported file may run code while it is read")


def build_checkpoint(policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/checkpoint/<policy>`."""
    key = policy_key("checkpoint", policy.name)

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins={"demonstrations": dg.AssetIn(DEMONSTRATIONS, metadata=SKIP_MISSING)},
        io_manager_key="tables",
        group_name="policy",
        kinds={"pytorch"},
        code_version=f"1-{policy.version}",
        description=(
            f"Checkpoints of `{policy.name}` on one task, trained from its demonstrations or imported. A training that "
            "begins fresh although attempts are known must say so: nothing is restarted by accident, or overwritten."
        ),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in CHECKPOINT_CHECKS.items()],
    )
    def checkpoint(
        context: dg.AssetExecutionContext,
        config: CheckpointConfig,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        demonstrations: dict[str, TablePartition],
    ):
        task = task_of(context)
        home = Home(Path(compute.home))
        if config.external:
            result = yield from compute.run(
                context,
                "workloads.checkpoint_import",
                inputs={},
                params={
                    "task": task.key,
                    "policy": policy.name,
                    "path": config.external,
                    "trusted": config.trusted,
                    "run_id": context.run_id,
                },
                needs=Needs(cpus=1, memory_gb=4, environment=task.environment),
            )
            source = Input("file", config.external, file_hash(Path(config.external)), None, config.external)
            new = Rows(result.rows.frame, [source], result.rows.job_key)
        else:
            attempt = _begin(context, config, home, policy, task.key, demonstrations)
            result = yield from compute.run(
                context,
                policy.train or "",
                inputs={"demonstrations": demonstrations[task.key]},
                params={"task": task.key, "policy": policy.name, "attempt": attempt.described()},
                needs=Needs(cpus=1, memory_gb=6, environment=task.environment),
                on_end=lambda _: _keep_attempt(context, tables, attempt),
            )
            new = result.rows
        rows = with_earlier(context, tables, new, ["checkpoint_hash", "attempt"], chosen=False)
        yield materialised(rows, result.metadata, result.checks)

    return checkpoint


def _begin(
    context: dg.AssetExecutionContext,
    config: CheckpointConfig,
    home: Home,
    policy: PolicySpec,
    task: str,
    demonstrations: dict[str, TablePartition],
) -> Attempt:
    if policy.train is None:
        raise dg.Failure(
            f"policy {policy.name!r} is not trained here; import a checkpoint: `tracebed checkpoint import "
            f"{policy.name} {task} PATH`",
            allow_retries=False,
        )
    if task not in demonstrations:
        raise dg.Failure(
            f"there are no demonstrations of {task}: materialise policy/demonstrations [{task}], or import a "
            f"checkpoint with `tracebed checkpoint import {policy.name} {task} PATH`",
            allow_retries=False,
        )
    intent = Intent(config.intent, config.resume_steps.get(task, config.resume_step))
    settings = recipe(policy.name, task) | dict(config.overrides)
    try:
        plan = plan_training(home, policy.name, task, settings, intent)
    except IntentRefused as refused:
        raise dg.Failure(str(refused), allow_retries=False) from refused
    context.log.info(plan.sentence)
    dataset = demonstrations[task].frame()["dataset_artifact"][0]
    return begin_attempt(home, plan, Path(dataset).stem, context.run_id)


def _keep_attempt(context: dg.AssetExecutionContext, tables: TableIOManager, attempt: Attempt) -> None:
    """Publish the attempt and its curve, however the job ended."""
    for name, rows in attempt.recorded().items():
        tables.store.publish(
            name,
            (attempt.policy, attempt.task, attempt.name),
            rows,
            asset=context.asset_key.to_user_string(),
            partition=attempt.task,
            run_id=context.run_id,
        )
