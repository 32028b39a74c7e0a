"""Success rates with intervals, recovery, and paired differences: computed from rollouts, in the run itself."""

from collections.abc import Hashable

import dagster as dg
import polars as pl

from assets.policy.keys import policy_key
from io_managers.schemas import table
from io_managers.table_io_manager import Rows, materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from science.robots.policies.base import PolicySpec

MIN_EPISODES = 20
CONTROL_ARM = "control"


def build_success_rate(policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/success_rate/<policy>`."""
    key = policy_key("success_rate", policy.name)
    ins = {"rollouts": dg.AssetIn(policy_key("rollouts", policy.name))}
    if policy.trained:
        ins["checkpoint"] = dg.AssetIn(policy_key("checkpoint", policy.name))

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins=ins,
        io_manager_key="tables",
        group_name="policy",
        kinds={"polars", "parquet"},
        code_version="1",
        description=(
            f"Success rate of `{policy.name}` on one task, by evaluation and arm: n, Wilson interval, errors apart, "
            "recovery after a perturbation, and McNemar's test against the unperturbed arm on the same seeds."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "enough_rollouts", asset=key, description=f"the chosen evaluation has at least {MIN_EPISODES} episodes"
            )
        ],
    )
    def success_rate(context: dg.AssetExecutionContext, **inputs: TablePartition):
        rollouts = inputs["rollouts"].frame()
        chosen = chosen_evaluation(rollouts, inputs["checkpoint"].frame() if "checkpoint" in inputs else None)
        frame = rates(rollouts, chosen, control=policy.control)
        shown = frame.filter(pl.col("chosen") & (pl.col("arm") == CONTROL_ARM))
        n = int(shown["n"].sum())
        metadata = {
            "table": dg.MetadataValue.md(rates_markdown(frame)),
            "n": n,
            "evaluations": len(set(frame["evaluation"])),
        }
        if n:
            metadata |= {
                "rate": shown["rate"].item(),
                "ci_low": shown["ci_low"].item(),
                "ci_high": shown["ci_high"].item(),
            }
        checks = [dg.AssetCheckResult(check_name="enough_rollouts", passed=n >= MIN_EPISODES, metadata={"n": n})]
        return materialised(Rows(frame), metadata, checks)

    return success_rate


def chosen_evaluation(rollouts: pl.DataFrame, checkpoints: pl.DataFrame | None) -> str | None:
    """The evaluation whose rate stands for the policy.

    That of the chosen checkpoint, the first in the table (the newest run is written first) where several environments
    evaluated it; None where the chosen checkpoint has not been rolled out.
    """
    candidates = rollouts.filter(pl.col("arm") == CONTROL_ARM)
    if checkpoints is not None:
        candidates = candidates.filter(
            pl.col("checkpoint_hash").is_in(checkpoints.filter("chosen")["checkpoint_hash"].to_list())
        )
    return candidates["evaluation"][0] if len(candidates) else None


def rates(rollouts: pl.DataFrame, chosen: str | None, *, control: bool) -> pl.DataFrame:
    """Rows of table `success_rate`: one an evaluation and arm."""
    rows = []
    for (evaluation,), episodes in rollouts.group_by("evaluation", maintain_order=True):
        by_arm = {arm: each for (arm,), each in episodes.group_by("arm", maintain_order=True)}
        rows += [
            _rate(each, by_arm.get(CONTROL_ARM)) | {"chosen": evaluation == chosen, "control": control}
            for each in by_arm.values()
        ]
    schema = {column.name: column.dtype for column in table("success_rate").columns}
    return pl.DataFrame(rows, schema=schema).sort("chosen", "evaluation", "arm", descending=[True, False, False])


def _rate(episodes: pl.DataFrame, control: pl.DataFrame | None) -> dict:
    from science.robots.statistics import mcnemar, wilson

    counts = dict(episodes["outcome"].value_counts().iter_rows())
    successes, failures = counts.get("success", 0), counts.get("failure", 0)
    n = successes + failures
    interval = wilson(successes, n)
    first = episodes.row(0, named=True)
    names = ("suite", "task", "policy", "checkpoint_hash", "step", "evaluation", "environment_hash", "arm")
    row = {name: first[name] for name in names}
    row |= {
        "n": n,
        "successes": successes,
        "errors": counts.get("error", 0),
        "solved_at_reset": counts.get("solved_at_reset", 0),
        "rate": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "mean_steps": episodes.filter(pl.col("outcome") == "success")["steps"].mean(),
        "steps_per_s": _steps_per_s(episodes),
    }
    if first["arm"] == CONTROL_ARM:
        return row
    row |= _recovery(episodes)
    if control is not None and (set(solved(episodes)) & set(solved(control))):
        paired = mcnemar(solved(episodes), solved(control))
        row |= {"paired_difference": paired.difference.value, "paired_p": paired.p}
    return row


def _steps_per_s(episodes: pl.DataFrame) -> float | None:
    """Control steps a second of one worker's wall time, of the episodes that took any."""
    wall_s = float(episodes["wall_s"].sum())
    return int(episodes["steps"].sum()) / wall_s if wall_s > 0 else None


def _recovery(episodes: pl.DataFrame) -> dict:
    from science.robots.statistics import recovery

    ended = episodes.filter(pl.col("outcome").is_in(["success", "failure"]))
    found = recovery(
        ended["fired"].to_list(),
        (ended["outcome"] == "success").to_list(),
        ended["fired_step"].to_list(),
        ended["success_step"].to_list(),
    )
    return {
        "fired": found.fired,
        "fire_rate": found.fire_rate.value,
        "recovery_rate": found.recovery_rate.value,
        "recovery_ci_low": found.recovery_rate.low,
        "recovery_ci_high": found.recovery_rate.high,
        "steps_to_recover": found.steps_to_recover,
    }


def solved(episodes: pl.DataFrame) -> dict[Hashable, bool]:
    """Seed -> solved, of the episodes that ended in success or failure."""
    ended = episodes.filter(pl.col("outcome").is_in(["success", "failure"]))
    return {seed: outcome == "success" for seed, outcome in ended.select("seed", "outcome").iter_rows()}


def rates_markdown(frame: pl.DataFrame) -> str:
    """Rates as a Markdown table; the chosen evaluation first, those of other checkpoints marked as superseded."""
    lines = [
        "| step | arm | rate | 95 % | n | errors | fired | recovered | vs control (p) |",
        "|---|---|---:|---|---:|---:|---:|---|---|",
    ]
    for row in frame.iter_rows(named=True):
        recovered = paired = ""
        if row["recovery_rate"] is not None:
            recovered = f"{row['recovery_rate']:.2f} ({row['recovery_ci_low']:.2f} to {row['recovery_ci_high']:.2f})"
        if row["paired_difference"] is not None:
            paired = f"{row['paired_difference']:+.2f} (p {row['paired_p']:.3f})"
        rate = "" if row["rate"] is None else f"{row['rate']:.3f}"
        step = "" if row["step"] is None else row["step"]
        cells = (
            f"{step} {'(chosen)' if row['chosen'] else '(SUPERSEDED)'}".strip(),
            row["arm"],
            rate,
            f"{row['ci_low']:.2f} to {row['ci_high']:.2f}",
            row["n"],
            row["errors"],
            "" if row["fired"] is None else row["fired"],
            recovered,
            paired,
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
