"""What trainings of tasks and of bases share: an explicit intent, an attempt that is known from its beginning."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from io_managers.table_io_manager import TableIOManager
from io_managers.tables import TablePartition
from resources.attempts import Attempt, attempts_without_rows
from resources.compute.compute import root_run
from resources.compute.interface import Status
from resources.training import Intent, begin_attempt, begun_attempt, plan_training
from science.robots.policies.base import PolicySpec, called

TRAINING_CHECKS = {
    "complete": "the last step that was asked for was reached, and every kept checkpoint was read back",
    "origin": "where its weights began is PROVEN or UNDETERMINED by bytes and documents, never CONTRADICTED",
    "loss_fell": "the mean loss of the last tenth of the steps is below that of the first tenth",
}


class TrainingConfig(dg.Config):
    """How to train; what is not given is taken from the configuration files."""

    intent: str | None = Field(None, description="fresh or resume; needed as soon as an attempt is known")
    resume_step: int | None = Field(None, description="the step that a resume expects to find")
    overrides: dict[str, Any] = Field({}, description="training parameters over those of recipes.toml or bases.toml")


def settled(policy: PolicySpec, configured: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """All settings of a training, and those that a resume may change.

    Raises
    ------
    ValueError
        For settings that the policy cannot be trained with.
    """
    if policy.settings is None:
        return dict(configured), frozenset()
    return called(policy.settings, configured)


def begin_training(
    context: dg.AssetExecutionContext,
    tables: TableIOManager,
    policy: PolicySpec,
    subject: str,
    configured: Mapping[str, Any],
    intent: Intent,
    demonstrations: Mapping[str, TablePartition],
) -> Attempt:
    """The attempt of this run, begun now or before its re-execution.

    Parameters
    ----------
    subject : the task, or what attempts at a base are filed under.
    demonstrations : task -> its demonstrations.

    Raises
    ------
    dagster.Failure
        For settings that cannot be used, or an intent that is missing or does not fit what is known.
    """
    home = tables.home_folders()
    for lost in attempts_without_rows(home, policy.name, subject):
        keep_attempt(context, tables, lost, None)
    data = _datasets_hash(demonstrations)
    try:
        settings, free = settled(policy, configured)
        if begun := begun_attempt(home, policy.name, subject, settings, data, root_run(context)):
            context.log.info(f"attempt {begun.name} was begun by the run that this one re-executes: it goes on")
            return begun
        plan = plan_training(home, policy.name, subject, settings, intent, free=free, demonstrations_hash=data)
    except ValueError as refused:
        raise dg.Failure(str(refused), allow_retries=False) from refused
    context.log.info(plan.sentence)
    return begin_attempt(home, plan, data, root_run(context))


def keep_attempt(
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


def origin_check(rows: Any) -> dg.AssetCheckResult:
    """What the rows of a training say of where their weights come from; they are in order of preference."""
    chosen = rows.filter("chosen").row(0, named=True)
    told = f"{chosen['base_verdict']} {chosen['base_weights'] or ''}".strip() + f": {chosen['base_evidence']}"
    contradicted = "CONTRADICTED" in rows["base_verdict"].to_list()
    return dg.AssetCheckResult(check_name="origin", passed=not contradicted, metadata={"base_weights": told})


def _datasets_hash(demonstrations: Mapping[str, TablePartition]) -> str:
    """SHA-256 of the dataset, or of the names and hashes of several."""
    hashes = {task: Path(each.frame()["dataset_artifact"][0]).stem for task, each in sorted(demonstrations.items())}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("\n".join(f"{task} {digest}" for task, digest in hashes.items()).encode()).hexdigest()
