"""The policy leaderboard, and every two policies on the seeds that both ran."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import dagster as dg
import polars as pl

from assets.policy.keys import BENCHMARK, BENCHMARK_PAIRS, policy_key
from assets.policy.references import references, references_markdown
from assets.policy.success_rate import CONTROL_ARM, solved
from io_managers.catalog import superseded
from io_managers.schemas import table
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised
from io_managers.tables import TablePartition
from science.robots.policies.base import PolicySpec

_CHECKPOINT = "checkpoint_of_"


def build_benchmarks(policies: Sequence[PolicySpec]) -> list[dg.AssetsDefinition]:
    """The assets `benchmark/policy` and `benchmark/policy_pairs`."""
    return [_leaderboard(policies), _pairs(policies)]


def _leaderboard(policies: Sequence[PolicySpec]) -> dg.AssetsDefinition:
    ins = {each.name: dg.AssetIn(policy_key("success_rate", each.name), metadata=SKIP_MISSING) for each in policies}
    checkpoints = {_CHECKPOINT + each.name: policy_key("checkpoint", each.name) for each in policies if each.trained}

    @dg.asset(
        key=BENCHMARK,
        ins=ins | {name: dg.AssetIn(each, metadata=SKIP_MISSING) for name, each in checkpoints.items()},
        io_manager_key="tables",
        group_name="benchmark",
        kinds={"polars", "parquet"},
        code_version="2",
        description=(
            "Success rates of all policies with intervals, by suite and task, with scripted and random as controls, "
            "and the base that their weights come from. Suites are never mixed; what was not materialised is named, "
            "not filled in; numbers of `references.toml` stand apart, and are no results."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "controls_present", asset=BENCHMARK, description="every task of a policy has both of its controls"
            ),
            dg.AssetCheckSpec(
                "every_rate_chosen",
                asset=BENCHMARK,
                description="the chosen checkpoint of every policy and task was rolled out; others are named",
            ),
            dg.AssetCheckSpec(
                "none_superseded",
                asset=BENCHMARK,
                description="every rate is of the checkpoint that is chosen now; one that was retrained since is named",
            ),
            dg.AssetCheckSpec(
                "one_environment",
                asset=BENCHMARK,
                description="all rates of a task were measured with the same simulator, robosuite and task version",
            ),
        ],
    )
    def benchmark_policy(
        context: dg.AssetExecutionContext,
        tables: dg.ResourceParam[TableIOManager],
        **inputs: dict[str, TablePartition],
    ):
        rates = {name: each for name, each in inputs.items() if name not in checkpoints}
        frames = [_completed("success_rate", each) for partitions in rates.values() for each in partitions.values()]
        if not frames:
            raise dg.Failure("no success rate exists yet; materialise policy/success_rate/* first", allow_retries=False)
        trained = [_completed("checkpoint", each) for name in checkpoints for each in inputs[name].values()]
        board = board_rows(pl.concat(frames), trained)
        rated = set(board.select(pl.format("{}.{} {}", "suite", "task", "policy")).to_series())
        unrated = sorted(
            f"{task} {name}"
            for name, partitions in rates.items()
            for task in partitions
            if f"{task} {name}" not in rated
        )
        mixed = (
            board.group_by("suite", "task")
            .agg(pl.col("environment_hash").n_unique())
            .filter(pl.col("environment_hash") > 1)
        )
        controls = [each.name for each in policies if each.control]
        without = _without_controls(rates, controls)
        reasons = superseded(tables.home_folders(), "benchmark_policy", board)
        old = board.filter(pl.Series([reason is not None for reason in reasons], dtype=pl.Boolean))
        return materialised(
            Rows(board),
            {
                "table": dg.MetadataValue.md(board_markdown(board, reasons) + references_markdown(references())),
                "tasks": len({key for partitions in rates.values() for key in partitions}),
                "without_a_rate": dg.MetadataValue.json(unrated),
            },
            [
                dg.AssetCheckResult(check_name="controls_present", passed=not without, metadata={"without": without}),
                dg.AssetCheckResult(check_name="every_rate_chosen", passed=not unrated, metadata={"without": unrated}),
                dg.AssetCheckResult(
                    check_name="none_superseded",
                    passed=old.is_empty(),
                    metadata={
                        "superseded": sorted(
                            set(old.select(pl.format("{}.{} {}", "suite", "task", "policy")).to_series())
                        )
                    },
                ),
                dg.AssetCheckResult(
                    check_name="one_environment",
                    passed=mixed.is_empty(),
                    metadata={"mixed": [f"{suite}.{task}" for suite, task, _ in mixed.iter_rows()]},
                ),
            ],
        )

    return benchmark_policy


def _completed(name: str, partition: TablePartition) -> pl.DataFrame:
    schema = table(name)
    return schema.completed(partition.frame()).select([column.name for column in schema.columns])


def board_rows(rates: pl.DataFrame, checkpoints: Sequence[pl.DataFrame] = ()) -> pl.DataFrame:
    """Rows of table `benchmark_policy`, best first within a task and arm.

    ``checkpoints`` (rows of that table) tell the base that weights come from, and the verdict on that.
    """
    columns = [column.name for column in table("benchmark_policy").columns]
    key, told = ["suite", "task", "policy", "checkpoint_hash"], ["base_weights", "base_verdict"]
    kinds = {column.name: column.dtype for column in table("checkpoint").columns if column.name in (*key, *told)}
    origins = pl.concat([pl.DataFrame(schema=kinds), *(each.select(list(kinds)) for each in checkpoints)])
    board = rates.filter("chosen").join(origins.unique(key, keep="first"), on=key, how="left").select(columns)
    order = ["suite", "task", "arm", "control", "rate", "policy"]
    return board.sort(order, descending=[False, False, False, False, True, False], nulls_last=True)


def _without_controls(rates: Mapping[str, Mapping[str, TablePartition]], controls: Sequence[str]) -> list[str]:
    tasks = {task for partitions in rates.values() for task in partitions}
    return sorted(f"{task} lacks {name}" for task in tasks for name in controls if task not in rates[name])


def board_markdown(board: pl.DataFrame, superseded: Sequence[str | None]) -> str:
    """The unperturbed rows of a leaderboard as a Markdown table, with recovery over all perturbations beside them.

    ``superseded`` says of each row why it is not what would be computed now, or None.
    """
    lines = [
        "| suite | task | policy | success | 95 % | n | errors | recovery | base weights | steps/s |",
        "|---|---|---|---:|---|---:|---:|---|---|---:|",
    ]
    noted = board.with_columns(superseded=pl.Series(superseded, dtype=pl.String))
    for row in noted.filter(pl.col("arm") == CONTROL_ARM).iter_rows(named=True):
        same = (pl.col("evaluation") == row["evaluation"]) & pl.col("recovery_rate").is_not_null()
        perturbed = board.filter(same).sort("arm")
        recovery = ", ".join(f"{arm} {rate:.2f}" for arm, rate in perturbed.select("arm", "recovery_rate").iter_rows())
        rate = "" if row["rate"] is None else f"{row['successes']}/{row['n']} = {row['rate']:.2f}"
        name = row["policy"] + (" (control)" if row["control"] else "")
        name += f" (SUPERSEDED: {row['superseded']})" if row["superseded"] else ""
        interval = f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"
        origin = f"{row['base_weights'] or ''} {row['base_verdict'] or ''}".strip()
        speed = "" if row["steps_per_s"] is None else f"{row['steps_per_s']:.0f}"
        cells = (row["suite"], row["task"], name, rate, interval, row["n"], row["errors"], recovery, origin, speed)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _pairs(policies: Sequence[PolicySpec]) -> dg.AssetsDefinition:
    ins = {each.name: dg.AssetIn(policy_key("rollouts", each.name), metadata=SKIP_MISSING) for each in policies}
    ins["benchmark"] = dg.AssetIn(BENCHMARK)

    @dg.asset(
        key=BENCHMARK_PAIRS,
        ins=ins,
        io_manager_key="tables",
        group_name="benchmark",
        kinds={"polars", "parquet"},
        code_version="1",
        description=(
            "Every two policies on one task, unperturbed, on the seeds that both ran: McNemar's exact test, the paired "
            "difference with its interval, and how many shared seeds would separate their rates."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "seeds_shared", asset=BENCHMARK_PAIRS, description="every two policies of a task share some seeds"
            )
        ],
    )
    def benchmark_policy_pairs(
        context: dg.AssetExecutionContext, benchmark: TablePartition, **rollouts: dict[str, TablePartition]
    ):
        shown = benchmark.frame().filter(pl.col("arm") == CONTROL_ARM)["evaluation"].to_list()
        frames = [_completed("rollouts", each) for partitions in rollouts.values() for each in partitions.values()]
        episodes = pl.concat(frames).filter(pl.col("evaluation").is_in(shown) & (pl.col("arm") == CONTROL_ARM))
        rows, unshared = paired_rows(episodes)
        schema = {column.name: column.dtype for column in table("benchmark_policy_pairs").columns}
        frame = pl.DataFrame(rows, schema=schema).sort("suite", "task", "policy_a", "policy_b")
        checks = [dg.AssetCheckResult(check_name="seeds_shared", passed=not unshared, metadata={"unshared": unshared})]
        return materialised(Rows(frame), {"table": dg.MetadataValue.md(pairs_markdown(frame))}, checks)

    return benchmark_policy_pairs


def paired_rows(episodes: pl.DataFrame) -> tuple[list[dict], list[str]]:
    """Rows of table `benchmark_policy_pairs`, and the pairs that share no seed."""
    from science.robots.statistics import mcnemar, n_to_separate

    rows, unshared = [], []
    for (suite, task), of_task in episodes.group_by("suite", "task", maintain_order=True):
        outcomes = {policy: solved(each) for (policy,), each in of_task.group_by("policy", maintain_order=True)}
        environments = dict(of_task.select("policy", "environment_hash").unique().iter_rows())
        for a, b in combinations(sorted(outcomes), 2):
            if environments[a] != environments[b]:
                unshared.append(f"{suite}.{task}: {a} and {b} ran in different environments")
                continue
            if not set(outcomes[a]) & set(outcomes[b]):
                unshared.append(f"{suite}.{task}: {a} and {b}")
                continue
            test = mcnemar(outcomes[a], outcomes[b])
            rates = [(test.both + only) / test.n_shared for only in (test.only_a, test.only_b)]
            rows.append(
                {
                    "suite": suite,
                    "task": task,
                    "policy_a": a,
                    "policy_b": b,
                    "n_shared": test.n_shared,
                    "only_a": test.only_a,
                    "only_b": test.only_b,
                    "difference": test.difference.value,
                    "ci_low": test.difference.low,
                    "ci_high": test.difference.high,
                    "p": test.p,
                    "n_to_separate": n_to_separate(*rates),
                }
            )
    return rows, unshared


def pairs_markdown(frame: pl.DataFrame) -> str:
    """Pairs as a Markdown table."""
    lines = [
        "| task | policies | difference | 95 % | shared seeds | only first, only second | p | seeds to separate |",
        "|---|---|---:|---|---:|---|---:|---:|",
    ]
    for row in frame.iter_rows(named=True):
        cells = (
            f"{row['suite']}.{row['task']}",
            f"{row['policy_a']} - {row['policy_b']}",
            f"{row['difference']:+.2f}",
            f"{row['ci_low']:+.2f} to {row['ci_high']:+.2f}",
            row["n_shared"],
            f"{row['only_a']}, {row['only_b']}",
            f"{row['p']:.2g}",
            "equal rates" if row["n_to_separate"] is None else row["n_to_separate"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
