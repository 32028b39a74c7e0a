"""Training failure or evaluation bug? Gathers the evidence on a policy's rate and gives the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from io_managers.schemas import table
from resources.attempts import Attempt, chain, read_curve
from science.robots.diagnosis import Counts, Diagnosis, State, Verdict, diagnose
from science.robots.diagnosis.gathering import Trained, gather
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import Episode
from science.robots.rollouts.pool import RolloutRequest
from science.robots.rollouts.store import read_episode
from science.robots.tasks.registry import find_task, require_available
from workloads.job import Job, open_job
from workloads.policy_inputs import ChosenCheckpoint, chosen_checkpoint
from workloads.rollouts import evaluate_all, rollout_pool

CONTROL = "control"


class NoRollouts(ValueError):
    """A chosen checkpoint that was not rolled out."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        task = find_task(job.params["task"])
        require_available(task)
        spec = find_policy(job.params["policy"])
        checkpoint = chosen_checkpoint(job) if spec.trained else None
        rows = _rollouts(job, checkpoint)
        engines = {row["engine"] for row in rows}
        request = RolloutRequest(
            task.key,
            spec.name,
            checkpoint.path if checkpoint else None,
            engine=engines.pop() if len(engines) == 1 else None,
        )

        with rollout_pool(job) as pool:

            def evaluate(wanted: RolloutRequest, seeds: Sequence[int]) -> list[Episode]:
                return evaluate_all(job, pool, wanted, seeds, [CONTROL])

            evidence = gather(
                evaluate,
                request,
                [read_episode(job.artifact(row["episode_artifact"])) for row in rows],
                _trained(job, checkpoint) if checkpoint else None,
                expert_seeds=job.params["expert_seeds"],
                random_seeds=job.params["random_seeds"],
                replayed=job.params["replayed"],
            )
        _publish(job, diagnose(evidence), rows[0])


def _rollouts(job: Job, checkpoint: ChosenCheckpoint | None) -> list[dict[str, Any]]:
    rows = job.input("rollouts").frame().filter(pl.col("arm") == CONTROL)
    if checkpoint is not None:
        rows = rows.filter(pl.col("checkpoint_hash") == checkpoint.row["checkpoint_hash"])
    if rows.is_empty():
        raise NoRollouts(
            f"the chosen checkpoint of {job.params['policy']} was not rolled out on {job.params['task']}; materialise "
            f"policy/rollouts/{job.params['policy']} first"
        )
    return rows.filter(pl.col("evaluation") == rows["evaluation"][0]).sort("seed").to_dicts()


def _trained(job: Job, checkpoint: ChosenCheckpoint) -> Trained:
    rows = job.input("checkpoint").frame()
    links = _chain(job, checkpoint)
    names = [attempt.name for attempt, _ in links] or [checkpoint.row["attempt"]]
    attempt = rows.filter(pl.col("attempt").is_in(names)).sort("step")
    curve = attempt.select("step", "selection_successes", "selection_n").drop_nulls()
    dataset, recording = None, None
    demonstrations = job.inputs("demonstrations").get(job.params["task"])
    if demonstrations is not None:
        rows = demonstrations.frame()
        name = rows["dataset_artifact"][0]
        # Other demonstrations than those that it was trained on would say nothing of its training.
        if checkpoint.row["demonstrations_hash"] == name.partition(".")[0]:
            dataset = job.artifact(name)
            if rows["origin"][0] == "scripted":
                recording = Counts(int(rows["kept"].sum()), len(rows))
    return Trained(
        checkpoint.path,
        checkpoint.row["step"],
        dataset,
        recording,
        list(curve.iter_rows()),
        _losses(links, checkpoint) or list(attempt.select("step", "loss").drop_nulls().iter_rows()),
    )


def _chain(job: Job, checkpoint: ChosenCheckpoint) -> list[tuple[Attempt, int]]:
    """The attempt of a checkpoint and what it went on from; empty for an import, or where the directory is gone."""
    directory = job.home.training / job.params["policy"] / job.params["task"] / checkpoint.row["attempt"]
    return chain(Attempt.read(directory)) if (directory / "attempt.json").exists() else []


def _losses(links: Sequence[tuple[Attempt, int]], checkpoint: ChosenCheckpoint) -> list[tuple[int, float]]:
    """The whole loss curve up to a checkpoint; the table has its kept steps only."""
    points = [
        point
        for attempt, last in links
        for point in read_curve(Path(attempt.directory))
        if point["step"] <= min(last, checkpoint.row["step"])
    ]
    return [(point["step"], point["loss"]) for point in points if point.get("loss") is not None]


def _publish(job: Job, diagnosis: Diagnosis, row: dict[str, Any]) -> None:
    path = job.directory / "evidence.json"
    path.write_text(diagnosis.to_json())
    names = ("suite", "task", "policy", "checkpoint_hash", "step", "evaluation", "environment_hash")
    constants = {name: row[name] for name in names} | {
        "verdict": str(diagnosis.verdict),
        "cause": str(diagnosis.cause),
        "stage": diagnosis.stage,
        "evidence_artifact": job.keep(path),
    }
    rows = [
        constants
        | {
            "piece": str(reason.piece),
            "state": str(reason.state),
            "reason": reason.text,
            "supports": str(reason.speaks_for or ""),
        }
        for reason in diagnosis.reasons
    ]
    against = [
        reason.text
        for reason in diagnosis.reasons
        if reason.speaks_for is Verdict.EVALUATION and reason.state is State.FAILS
    ]
    sound = diagnosis.verdict is not Verdict.EVALUATION and not against
    job.check("evaluator_exonerated", sound, {"against": against}, blocking=False)
    determined = diagnosis.verdict is not Verdict.UNDETERMINED
    job.check("determined", determined, {"cause": str(diagnosis.cause)}, blocking=False)
    schema = {column.name: column.dtype for column in table("diagnosis").columns}
    job.publish(
        pl.DataFrame(rows, schema=schema),
        {
            "verdict": str(diagnosis.verdict),
            "cause": str(diagnosis.cause),
            "summary": diagnosis.summary,
            "diagnosis": {"raw_value": diagnosis.markdown(), "type": "md"},
        },
    )


if __name__ == "__main__":
    main()
