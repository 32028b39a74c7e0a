"""Why a rate is what it is: training failure or evaluation bug, with the evidence."""

import dagster as dg
from pydantic import Field

from assets.policy.keys import DEMONSTRATIONS, policy_key
from assets.policy.tasks import task_needs, task_of
from io_managers.table_io_manager import SKIP_MISSING, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from resources.compute.compute import Compute
from science.robots.policies.base import PolicySpec


class DiagnosisConfig(dg.Config):
    """How much evidence is gathered."""

    expert_seeds: int = Field(20, ge=1, description="seeds that the scripted expert runs through the same evaluator")
    random_seeds: int = Field(5, ge=0, description="seeds that the random policy runs through it")
    replayed: int = Field(10, ge=0, description="demonstrations whose recorded actions are replayed in it")


def build_diagnosis(policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/diagnosis/<policy>`."""
    key = policy_key("diagnosis", policy.name)
    ins = {"rollouts": dg.AssetIn(policy_key("rollouts", policy.name))}
    if policy.trained:
        ins["checkpoint"] = dg.AssetIn(policy_key("checkpoint", policy.name))
        ins["demonstrations"] = dg.AssetIn(DEMONSTRATIONS, metadata=SKIP_MISSING)

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins=ins,
        io_manager_key="tables",
        group_name="policy",
        kinds={"mujoco", "markdown"},
        code_version=f"1-{policy.version}",
        description=(
            f"Training failure or evaluation bug? The verdict on `{policy.name}` on one task, with its reasons: expert "
            "and random through the same evaluator, replayed demonstrations, action error, success curve, stages, "
            "settings."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "evaluator_exonerated", asset=key, description="nothing in the evidence speaks against the evaluator"
            ),
            dg.AssetCheckSpec("determined", asset=key, description="the evidence suffices for a verdict"),
        ],
    )
    def diagnosis(
        context: dg.AssetExecutionContext, config: DiagnosisConfig, compute: Compute, **inputs: TablePartition
    ):
        task = task_of(context)
        result = yield from compute.run(
            context,
            "workloads.diagnosis",
            inputs=inputs,
            params={"task": task.key, "policy": policy.name, **config.model_dump()},
            needs=task_needs(task, *policy.packages, cpus=2, memory_gb=6),
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return diagnosis
