"""Checkpoints of one policy: trained on a node under an explicit intent, or imported from a file."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.earlier import earlier_rows, with_earlier
from assets.policy.keys import DEMONSTRATIONS, policy_key
from assets.policy.recipes import recipe
from assets.policy.tasks import task_needs, task_of
from home import Home
from io_managers.content import file_hash
from io_managers.table_io_manager import SKIP_MISSING, TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from provenance.lineage import Input
from provenance.weights.evidence import Verdict
from provenance.weights.of_training import TrainingOrigin, origin_of_training
from resources.attempts import Attempt, attempts_without_rows
from resources.compute.compute import Compute, root_run
from resources.compute.interface import Status
from resources.training import Intent, begin_attempt, begun_attempt, plan_training
from science.robots.policies.base import PolicySpec

CHECKPOINT_CHECKS = {
    "complete": "the last step that was asked for was reached, and every kept checkpoint was read back",
    "origin": "where its weights began is PROVEN or UNDETERMINED by what was written down, never CONTRADICTED",
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
        home = compute.home_folders()
        earlier = earlier_rows(context, tables)
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
                    "run_id": root_run(context),
                },
                needs=task_needs(task, *policy.packages),
            )
            source = Input("file", config.external, file_hash(Path(config.external)), None, config.external)
            # Demonstrations are loaded for training; an import was not made from them.
            new = replace(result.rows, files=[source], loaded_were_read=False)
            origin = TrainingOrigin(
                Verdict.UNDETERMINED, None, "an imported checkpoint: nothing is known of its training"
            )
        else:
            attempt = _begin(context, config, tables, home, policy, task.key, demonstrations)
            result = yield from compute.run(
                context,
                policy.train or "",
                inputs={"demonstrations": demonstrations[task.key]},
                params={"task": task.key, "policy": policy.name, "attempt": attempt.described()},
                needs=task_needs(task, *policy.packages, memory_gb=6),
                on_end=lambda _, status: _keep_attempt(context, tables, attempt, status),
            )
            new = result.rows
            origin = origin_of_training(home, policy.name, task.key, attempt.name)
        rows = with_earlier(new, earlier, "checkpoint", ["checkpoint_hash", "attempt"], chosen=False)
        told = {"base_weights": origin.sentence()}
        known = dg.AssetCheckResult(
            check_name="origin", passed=origin.verdict is not Verdict.CONTRADICTED, metadata=told
        )
        yield materialised(rows, {**result.metadata, **told}, [*result.checks, known])

    return checkpoint


def _begin(
    context: dg.AssetExecutionContext,
    config: CheckpointConfig,
    tables: TableIOManager,
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
    for lost in attempts_without_rows(home, policy.name, task):
        _keep_attempt(context, tables, lost, None)
    dataset = Path(demonstrations[task].frame()["dataset_artifact"][0]).stem
    try:
        settings, free = resolved_settings(policy, task, config.overrides)
        if begun := begun_attempt(home, policy.name, task, settings, dataset, root_run(context)):
            context.log.info(f"attempt {begun.name} was begun by the run that this one re-executes: it goes on")
            return begun
        intent = Intent(config.intent, config.resume_steps.get(task, config.resume_step))
        plan = plan_training(home, policy.name, task, settings, intent, free=free, demonstrations_hash=dataset)
    except ValueError as refused:
        raise dg.Failure(str(refused), allow_retries=False) from refused
    context.log.info(plan.sentence)
    return begin_attempt(home, plan, dataset, root_run(context))


def resolved_settings(
    policy: PolicySpec, task: str, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """All settings of a training, and those that a resume may change.

    Raises
    ------
    ValueError
        For a recipe or an override that cannot be used.
    """
    configured = recipe(policy.name, task) | dict(overrides)
    if policy.settings is None:
        return configured, frozenset()
    module, _, function = policy.settings.partition(":")
    return getattr(import_module(module), function)(configured)


def _keep_attempt(
    context: dg.AssetExecutionContext, tables: TableIOManager, attempt: Attempt, status: Status | None
) -> None:
    """Publish the attempt and its curve, however the job ended."""
    ended = f"{status.ending}: {status.detail}" if status is not None and status.ending is not None else None
    for name, rows in attempt.recorded(ended).items():
        tables.store.publish(
            name,
            (attempt.policy, attempt.task, attempt.name),
            rows,
            asset=context.asset_key.to_user_string(),
            partition=attempt.task,
            run_id=context.run_id,
        )
