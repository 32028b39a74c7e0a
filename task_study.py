"""Everything that tasks need, in one action: demonstrations, training, rollouts, rates, diagnosis, videos, leaderboard.

What was trained or imported is never trained again by a plan: only where nothing is known of a policy on a task does it
begin, fresh. See `resources/training.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import dagster as dg
import polars as pl

from assets.policy.benchmark import board_markdown, pairs_markdown
from assets.policy.checkpoint import configured_settings
from assets.policy.keys import BENCHMARK, BENCHMARK_PAIRS, DEMONSTRATIONS, policy_key
from assets.policy.training import settled
from defs import build_defs
from home import Home
from io_managers.catalog import ensure_catalog, superseded
from io_managers.tables import TableStore
from materialise import Config, Plan, PlanError, Say, require_daemon, run_here, submit
from partitions import TASKS, task_keys
from provenance.weights.bases import CHECKPOINT_TABLE, TABLE, Base, base_task, bases_file, load_bases
from resources.attempts import known_attempts
from resources.tasks import registered_task
from resources.training import Intent, IntentRefused, plan_training
from science.robots.policies.base import PolicySpec
from science.robots.policies.registry import policy_specs
from science.robots.tasks.registry import suites

DEMO_TASK = "open.Lift"
REFUSED = "REFUSED"


def add_tasks(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Add tasks to the partitions.

    Raises
    ------
    TaskError
        For a key that no installed suite has; nothing is added then.
    """
    for key in keys:
        registered_task(key)
    instance.add_dynamic_partitions(TASKS.name or "", list(keys))


def remove_task(instance: dg.DagsterInstance, key: str) -> None:
    """Take a task out of the partitions; nothing that was published is deleted.

    Raises
    ------
    PlanError
        When it is not there.
    """
    if key not in task_keys(instance):
        raise PlanError(f"there is no task {key!r}; `tracebed task list` shows what there is")
    instance.delete_dynamic_partition(TASKS.name or "", key)


def list_tasks(home: Home) -> pl.DataFrame:
    """One row a task of every suite: added or not, and its unperturbed rates, by policy."""
    ensure_catalog(home)
    with dg.DagsterInstance.get() as instance:
        added = set(task_keys(instance))
    every = sorted(added | {task.key for suite in suites().values() for task in suite.tasks.values()})
    listed = pl.DataFrame({"task": every, "added": [key in added for key in every]})
    rates = (
        TableStore(home.tables)
        .scan("success_rate")
        .filter(pl.col("chosen") & (pl.col("arm") == "control"))
        .with_columns(
            pl.format("{}.{}", "suite", "task").alias("task"),
            pl.format("{}: {}/{}", "policy", "successes", "n").alias("solved"),
        )
        .group_by("task")
        .agg(pl.col("solved").sort().str.join(", "))
    )
    return listed.join(rates, on="task", how="left").sort("added", "task", descending=[True, False])


def import_checkpoint(home: Home, policy: str, task: str, path: Path, trusted: bool, say: Say) -> bool:
    """Materialise a policy's checkpoint from a file that was trained elsewhere; returns whether it succeeded.

    Raises
    ------
    PlanError, TaskError
        For a policy that is not trained, a task that does not exist, or a path that leads to no file.
    """
    if policy not in (trained := [spec.name for spec in policy_specs().values() if spec.trained]):
        raise PlanError(f"found policy {policy!r}, expected one that has checkpoints: {', '.join(trained)}")
    resolved = path.expanduser().resolve()
    if not resolved.is_file():
        raise PlanError(f"found no file at {resolved} (given as {path}), expected a checkpoint")
    key = policy_key("checkpoint", policy)
    with dg.DagsterInstance.get() as instance:
        added = task not in task_keys(instance)
        add_tasks(instance, [task])
        config = {key: {"external": str(resolved), "trusted": trusted}}
        succeeded = run_here(home, instance, {key: [task]}, say, config=config)
        if added and not succeeded:
            remove_task(instance, task)
    return succeeded


def training_plan(home: Home, policy: str, tasks: Sequence[str], intent: str | None, step: int | None) -> list[str]:
    """What training would do on each task, or base (`base.<name>`), in words; or why it would be refused."""
    if policy not in (trainable := [spec.name for spec in policy_specs().values() if spec.train]):
        raise PlanError(f"found policy {policy!r}, expected one that is trained here: {', '.join(trainable)}")
    said = []
    bases = {base_task(base.name): base for base in load_bases(bases_file()) if base.policy == policy}
    for task in tasks:
        try:
            if task in bases:
                settings, free = settled(policy_specs()[policy], bases[task].settings)
            else:
                registered_task(task)
                settings, free = configured_settings(policy_specs()[policy], task)
            said.append(plan_training(home, policy, task, settings, Intent(intent, step), free=free).sentence)
        except IntentRefused as refused:
            said.append(f"{REFUSED}: {refused}")
    return said


def plan_tasks(home: Home, instance: dg.DagsterInstance, keys: Sequence[str], only: Collection[str] = ()) -> Plan:
    """What tasks need, for the policies named (controls always) or for all.

    Demonstrations that exist are not recorded again, and a policy that is known on a task is not trained again.

    Raises
    ------
    PlanError
        For a task that was not added, or a policy that does not exist.
    """
    if unknown := sorted(set(keys) - set(task_keys(instance))):
        raise PlanError(f"no such tasks: {', '.join(unknown)}; add them with `tracebed task add`")
    policies = _policies(only)
    store = TableStore(home.tables)
    recorded = {each.partition for each in store.partitions("demonstrations")}
    checkpoints = {(each.asset, each.partition) for each in store.partitions("checkpoint")}
    trainable = [key for key in keys if key in recorded or registered_task(key).has_expert]
    needed: dict[dg.AssetKey, Sequence[str | None]] = {
        DEMONSTRATIONS: [key for key in trainable if key not in recorded] if any(p.trained for p in policies) else []
    }
    for policy in policies:
        evaluated = [key for key in keys if policy.name != "scripted" or registered_task(key).has_expert]
        if policy.trained:
            asset = policy_key("checkpoint", policy.name)
            there = [key for key in keys if (asset.to_user_string(), key) in checkpoints]
            train = [key for key in trainable if policy.train and not known_attempts(home, policy.name, key)]
            bases = {key: _base_of(policy, key) for key in train}
            train = [key for key in train if _base_obtainable(home, instance, bases[key])]
            for base in {each.name: each for key in train if (each := bases[key]) is not None}.values():
                needed |= _of_base(store, base)
                lacking = [key for key in base.tasks if key not in recorded and key not in needed[DEMONSTRATIONS]]
                needed[DEMONSTRATIONS] = [*needed[DEMONSTRATIONS], *lacking]
            needed[asset] = train
            evaluated = [key for key in keys if key in there or key in train]
        for name in ("rollouts", "success_rate", "videos"):
            needed[policy_key(name, policy.name)] = evaluated
        if not policy.control:
            needed[policy_key("diagnosis", policy.name)] = evaluated
    return needed | {BENCHMARK: [None], BENCHMARK_PAIRS: [None]}


def _base_of(policy: PolicySpec, task: str) -> Base | None:
    """The base that a training of a policy on a task begins from; None where it begins from none.

    Raises
    ------
    PlanError
        When `recipes.toml` names one that `bases.toml` has not.
    """
    name = configured_settings(policy, task)[0].get("weight_loader")
    bases = {base.name: base for base in load_bases(bases_file())}
    if name is not None and name not in bases:
        raise PlanError(
            f"recipes.toml names the base {name!r} for {policy.name} on {task}, expected one of {bases_file()}: "
            f"{', '.join(bases) or 'there is none'}"
        )
    return bases.get(name or "")


def _base_obtainable(home: Home, instance: dg.DagsterInstance, base: Base | None) -> bool:
    """Whether a base is there, or a plan may train it: its tasks were added, and nothing is known of a training."""
    if base is None or _has_rows(TableStore(home.tables), CHECKPOINT_TABLE, base.name):
        return True
    trained = base.policy is not None and not known_attempts(home, base.policy, base_task(base.name))
    return trained and set(base.tasks) <= set(task_keys(instance))


def _of_base(store: TableStore, base: Base) -> dict[dg.AssetKey, Sequence[str | None]]:
    """What of a base is not there yet."""
    names = (CHECKPOINT_TABLE, TABLE) if base.policy else (TABLE,)
    return {policy_key(name, base.name): [None] for name in names if not _has_rows(store, name, base.name)}


def _has_rows(store: TableStore, table: str, base: str) -> bool:
    return any(each.asset == policy_key(table, base).to_user_string() for each in store.partitions(table))


def _policies(only: Collection[str]) -> list[PolicySpec]:
    every = policy_specs()
    if unknown := sorted(set(only) - set(every)):
        raise PlanError(f"no such policies: {', '.join(unknown)}; there are {', '.join(every)}")
    return [policy for policy in every.values() if not only or policy.control or policy.name in only]


def left_out_tasks(home: Home, keys: Sequence[str], plan: Plan) -> list[str]:
    """What a user might miss in the plan of these tasks, a sentence each."""
    said = []
    for policy in policy_specs().values():
        asset = policy_key("checkpoint", policy.name)
        if not policy.trained or asset not in plan:
            continue
        evaluated = plan[policy_key("rollouts", policy.name)]
        for key in keys:
            if key not in evaluated:
                said.append(f"{policy.name} on {key} left out: {_why_left_out(home, policy, key)}")
            elif key not in plan[asset]:
                said.append(f"{policy.name} on {key}: its checkpoint is kept, not trained again")
    return said


def _why_left_out(home: Home, policy: PolicySpec, task: str) -> str:
    if policy.train is None:
        return f"it is not trained here: `tracebed checkpoint import {policy.name} {task} FILE`"
    base = _base_of(policy, task)
    with dg.DagsterInstance.get() as instance:
        added = task_keys(instance)
        if base is None or known_attempts(home, policy.name, task) or _base_obtainable(home, instance, base):
            return f"`tracebed train plan {policy.name} {task}` says why"
    missing = [key for key in base.tasks if key not in added]
    if missing:
        return f"its base {base.name} is trained on {', '.join(missing)}, too: `tracebed task add {' '.join(missing)}`"
    return (
        f"its base {base.name} has no checkpoint: `tracebed train plan {base.policy} {base_task(base.name)}` says why"
    )


def submit_tasks(home: Home, keys: Sequence[str], only: Collection[str] = ()) -> str:
    """Hand one backfill of everything that the tasks need to the daemon; returns what to say of it."""
    with dg.DagsterInstance.get() as instance:
        needed = plan_tasks(home, instance, keys, only)
        require_daemon(instance)
        backfill_id = submit(instance, build_defs(home=home), needed, title=f"fill {', '.join(keys)}")
    total = sum(len(each) for each in needed.values())
    said = f"backfill {backfill_id}: {total} partitions of {len(needed)} assets; see /runs?view=backfills in the UI"
    return "\n".join([*left_out_tasks(home, keys, needed), said])


def fill_tasks_here(
    home: Home, keys: Sequence[str], only: Collection[str], say: Say, config: Config | None = None
) -> bool:
    """Materialise everything that the tasks need in this process; returns whether all of it succeeded."""
    with dg.DagsterInstance.get() as instance:
        needed = plan_tasks(home, instance, keys, only)
        for note in left_out_tasks(home, keys, needed):
            say(note)
        return run_here(home, instance, needed, say, takes_what_there_is={BENCHMARK, BENCHMARK_PAIRS}, config=config)


def run_task_demo(home: Home, say: Say) -> bool:
    """Train BC-RNN on Lift, roll it out beside scripted and random, unperturbed, and print the leaderboard."""
    control_only = {policy_key("rollouts", name): {"arms": ["control"]} for name in policy_specs()}
    with dg.DagsterInstance.get() as instance:
        add_tasks(instance, [DEMO_TASK])
        needed = {
            key: partitions
            for key, partitions in plan_tasks(home, instance, [DEMO_TASK], ["bc_rnn"]).items()
            if key.path[1] != "videos"
        }
        succeeded = run_here(
            home, instance, needed, say, takes_what_there_is={BENCHMARK, BENCHMARK_PAIRS}, config=control_only
        )
    if succeeded:
        store = TableStore(home.tables)
        say(f"\nPolicy benchmark, {DEMO_TASK}, unperturbed, evaluation seeds:\n")
        board = store.partition("benchmark_policy", ("all",)).frame()
        say(board_markdown(board, superseded(home, "benchmark_policy", board)))
        say("")
        say(pairs_markdown(store.partition("benchmark_policy_pairs", ("all",)).frame()))
        say("\nLook at it: `make ui`, group policy. `tracebed task fill open.Lift` adds perturbed arms and videos.")
    return succeeded
