"""Checkpoints of one policy: trained on a node under an explicit intent, or imported from a file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.earlier import earlier_rows, with_earlier
from assets.policy.keys import DEMONSTRATIONS, policy_key
from assets.policy.recipes import recipe
from assets.policy.tasks import task_needs, task_of
from assets.policy.training import (
    TRAINING_CHECKS,
    TrainingConfig,
    begin_training,
    keep_attempt,
    origin_check,
    settled,
)
from io_managers.content import file_hash
from io_managers.table_io_manager import SKIP_MISSING, TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from provenance.lineage import Input
from provenance.weights.bases import CHECKPOINT_TABLE, TABLE, Base
from provenance.weights.candidates import SCRATCH
from resources.compute.compute import Compute, root_run
from resources.training import Intent
from science.robots.policies.base import PolicySpec


class CheckpointConfig(TrainingConfig):
    """How to train, or what to import."""

    resume_steps: dict[str, int] = Field({}, description="resume_step by task, for a backfill: {task: step}")
    external: str | None = Field(None, description="import this checkpoint instead of training")
    trusted: bool = Field(False, description="the imported file may run code while it is read")


def build_checkpoint(policy: PolicySpec, bases: Sequence[Base] = ()) -> dg.AssetsDefinition:
    """The asset `policy/checkpoint/<policy>`; ``bases`` are those that the policy may begin from."""
    key = policy_key("checkpoint", policy.name)
    trained_here = {each.name: policy_key(CHECKPOINT_TABLE, each.name) for each in bases if each.policy is not None}
    fingerprints = {each.name: policy_key(TABLE, each.name) for each in bases}

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins={
            "demonstrations": dg.AssetIn(DEMONSTRATIONS, metadata=SKIP_MISSING),
            **{f"base_{name}": dg.AssetIn(each, metadata=SKIP_MISSING) for name, each in trained_here.items()},
            **{f"leaves_{name}": dg.AssetIn(each, metadata=SKIP_MISSING) for name, each in fingerprints.items()},
        },
        io_manager_key="tables",
        group_name="policy",
        kinds={policy.framework} if policy.framework else set(),
        code_version=f"2-{policy.version}",
        description=(
            f"Checkpoints of `{policy.name}` on one task, trained from its demonstrations or imported. A training that "
            "begins fresh although attempts are known must say so: nothing is restarted by accident, or overwritten."
        ),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in TRAINING_CHECKS.items()],
    )
    def checkpoint(
        context: dg.AssetExecutionContext,
        config: CheckpointConfig,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        demonstrations: dict[str, TablePartition],
        **of_bases: dict[str, TablePartition],
    ):
        task = task_of(context)
        earlier = earlier_rows(context, tables)
        found = {name: each for name, partitions in of_bases.items() for each in partitions.values()}
        leaves = {name: found[f"leaves_{name}"] for name in fingerprints if f"leaves_{name}" in found}
        params = {"task": task.key, "policy": policy.name}
        if config.external:
            result = yield from compute.run(
                context,
                "workloads.checkpoint_import",
                inputs={"base_weights": leaves},
                params={
                    **params,
                    "path": config.external,
                    "trusted": config.trusted,
                    "run_id": root_run(context),
                },
                needs=task_needs(task, *policy.packages),
            )
            source = Input("file", config.external, file_hash(Path(config.external)), None, config.external)
            new = replace(result.rows, files=[source], unread=_names(DEMONSTRATIONS, *trained_here.values()))
        else:
            _require_trainable(policy, task.key, demonstrations)
            configured = recipe(policy.name, task.key) | config.overrides
            base = _base_of(policy, configured, trained_here, found)
            intent = Intent(config.intent, config.resume_steps.get(task.key, config.resume_step))
            data = {task.key: demonstrations[task.key]}
            attempt = begin_training(context, tables, policy, task.key, configured, intent, data)
            result = yield from compute.run(
                context,
                policy.train or "",
                inputs={"demonstrations": data, "base": base, "base_weights": leaves},
                params={**params, "tasks": [task.key], "attempt": attempt.described()},
                needs=task_needs(task, *policy.packages, memory_gb=6),
                on_end=lambda _, status: keep_attempt(context, tables, attempt, status),
            )
            new = replace(
                result.rows, unread=_names(*(each for name, each in trained_here.items() if name not in base))
            )
        rows = with_earlier(new, earlier, "checkpoint", ["checkpoint_hash", "attempt"], chosen=False)
        known = origin_check(result.rows.frame)
        yield materialised(rows, {**result.metadata, **known.metadata}, [*result.checks, known])

    return checkpoint


def configured_settings(policy: PolicySpec, task: str) -> tuple[dict[str, Any], frozenset[str]]:
    """What `recipes.toml` says of a training, all settings, and those that a resume may change.

    Raises
    ------
    ValueError
        For a recipe that cannot be used.
    """
    return settled(policy, recipe(policy.name, task))


def _names(*keys: dg.AssetKey) -> Collection[str]:
    return {key.to_user_string() for key in keys}


def _require_trainable(policy: PolicySpec, task: str, demonstrations: Mapping[str, TablePartition]) -> None:
    importing = f"import a checkpoint with `tracebed checkpoint import {policy.name} {task} PATH`"
    if policy.train is None:
        raise dg.Failure(f"policy {policy.name!r} is not trained here; {importing}", allow_retries=False)
    if task not in demonstrations:
        raise dg.Failure(
            f"there are no demonstrations of {task}: materialise policy/demonstrations [{task}], or {importing}",
            allow_retries=False,
        )


def _base_of(
    policy: PolicySpec,
    configured: Mapping[str, Any],
    trained_here: Mapping[str, dg.AssetKey],
    found: Mapping[str, TablePartition],
) -> dict[str, TablePartition]:
    """The base that the settings name, as an input of the job; empty where they name none.

    Raises
    ------
    dagster.Failure
        For a base that does not exist, or was not trained yet.
    """
    name = configured.get("weight_loader")
    if name in (None, SCRATCH):
        return {}
    if name not in trained_here:
        raise dg.Failure(
            f"found weight_loader = {name!r} for {policy.name}, expected a base of `bases.toml` that is trained here "
            f"with this policy: {sorted(trained_here) or 'there is none'}",
            allow_retries=False,
        )
    if f"base_{name}" not in found:
        raise dg.Failure(
            f"the base {name!r} has no checkpoint yet: materialise {trained_here[name].to_user_string()} and "
            f"policy/{TABLE}/{name}, then this again",
            allow_retries=False,
        )
    return {name: found[f"base_{name}"]}
