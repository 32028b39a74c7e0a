"""Rollouts of one policy: episodes of the task on evaluation seeds, unperturbed and perturbed."""

import dagster as dg
from pydantic import Field

from assets.earlier import earlier_rows, with_earlier
from assets.policy.keys import policy_key
from assets.policy.tasks import task_needs, task_of
from io_managers.table_io_manager import TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from resources.compute.compute import Compute
from science.robots.policies.base import PolicySpec

_ASKING = ("openpi_client", "websockets")
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
    server: str | None = Field(
        None,
        pattern=r"^(own|none|wss?://.+)$",
        description="who answers for the policy: `own`, one server in this job; `none`, every worker for itself; or a "
        "server elsewhere, ws://host:port (key: $TRACEBED_SERVER_KEY); default: as the policy says",
    )
    time_limit_s: float = Field(300.0, gt=0, description="an episode that takes longer is an error")
    engine: str | None = Field(None, description="robosuite or exact; default: the fastest verified for the task")
    expert_seeds: int = Field(3, ge=0, description="seeds that the scripted expert runs through the same evaluator")
    retry_errors: bool = Field(False, description="run episodes again that ended in an error")


def _packages(policy: PolicySpec, server: str | None) -> tuple[str, ...]:
    """Python packages of the job; a policy that is asked elsewhere needs its own there."""
    if server == "none" or (server is None and not policy.served):
        return policy.packages
    return _ASKING if server and "://" in server else (*policy.packages, *_ASKING)


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
            needs=task_needs(task, *_packages(policy, config.server), cpus=config.workers or 2, memory_gb=6),
        )
        rows = with_earlier(result.rows, earlier, "rollouts", ["evaluation", "arm", "seed"])
        yield materialised(rows, {**result.metadata, "rows_of_all_evaluations": rows.frame.height}, result.checks)

    return rollouts
