"""A base that a policy is pre-trained to here, on the demonstrations of several tasks; fine-tunes begin from it."""

import json

import dagster as dg

from assets.earlier import earlier_rows, with_earlier
from assets.policy.keys import DEMONSTRATIONS, policy_key
from assets.policy.tasks import task_needs
from assets.policy.training import TRAINING_CHECKS, TrainingConfig, begin_training, keep_attempt, origin_check
from io_managers.table_io_manager import TableIOManager, materialised
from io_managers.tables import TablePartition
from provenance.weights.bases import CHECKPOINT_TABLE, Base, base_task
from resources.compute.compute import Compute
from resources.tasks import registered_task
from resources.training import Intent
from science.robots.policies.base import PolicySpec


def build_base_checkpoint(base: Base, policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/base_checkpoint/<base>`."""
    key = policy_key(CHECKPOINT_TABLE, base.name)
    cohort = dg.SpecificPartitionsPartitionMapping(list(base.tasks))

    @dg.asset(
        key=key,
        ins={"demonstrations": dg.AssetIn(DEMONSTRATIONS, partition_mapping=cohort)},
        io_manager_key="tables",
        group_name="policy",
        kinds={policy.framework} if policy.framework else set(),
        code_version=f"1-{policy.version}",
        description=(
            f"`{policy.name}` pre-trained on {', '.join(base.tasks)}: {base.description or 'a base for fine-tunes'}. A "
            "new task neither makes it stale nor trains it again; a training that begins fresh although attempts are "
            "known must say so."
        ),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in TRAINING_CHECKS.items()],
    )
    def base_checkpoint(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        demonstrations: dict[str, TablePartition],
    ):
        earlier = earlier_rows(context, tables)
        configured = {**base.settings, **config.overrides}
        intent = Intent(config.intent, config.resume_step)
        data = {task: demonstrations[task] for task in base.tasks}
        attempt = begin_training(context, tables, policy, base_task(base.name), configured, intent, data)
        result = yield from compute.run(
            context,
            policy.train or "",
            inputs={"demonstrations": data, "base": {}, "base_weights": {}},
            params={
                "policy": policy.name,
                "task": base_task(base.name),
                "tasks": list(base.tasks),
                "base": base.name,
                "attempt": attempt.described(),
            },
            needs=task_needs(registered_task(base.tasks[0]), *policy.packages, memory_gb=6),
            on_end=lambda _, status: keep_attempt(context, tables, attempt, status),
        )
        rows = with_earlier(result.rows, earlier, CHECKPOINT_TABLE, ["checkpoint_hash", "attempt"], chosen=False)
        known = origin_check(result.rows.frame)
        tasks = {"tasks": dg.MetadataValue.md(", ".join(json.loads(rows.frame["tasks"][0])))}
        yield materialised(rows, {**result.metadata, **tasks, **known.metadata}, [*result.checks, known])

    return base_checkpoint
