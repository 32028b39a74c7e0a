"""Rolls a policy out on the seeds that are missing, in warm worker processes, and reports every episode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from io_managers.schemas import table
from science.robots.policies.base import PolicySpec
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import ERROR, SOLVED_AT_RESET, SUCCESS, Episode
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.rollouts.store import EpisodeStore, Evaluation, evaluate, stored
from science.robots.seeds import EVALUATION, take
from science.robots.tasks.base import Task
from science.robots.tasks.registry import find_task, require_available
from workloads.job import Job, open_job
from workloads.policy_inputs import chosen_checkpoint
from workloads.policy_server import NONE, answering

MAX_ERROR_SHARE = 0.1


def main() -> None:
    """Run the job."""
    with open_job() as job:
        task = find_task(job.params["task"])
        require_available(task)
        spec = find_policy(job.params["policy"])
        _refuse_what_does_not_apply(job, task, spec)
        checkpoint = chosen_checkpoint(job, job.params["step"]) if spec.trained else None
        request = RolloutRequest(
            task=task.key,
            policy=spec.name,
            checkpoint=checkpoint.path if checkpoint else None,
            engine=job.params["engine"],
        )
        seeds = take(EVALUATION, job.params["n"], job.params["first_seed"])
        evaluation, store = Evaluation.of(request), EpisodeStore(job.home.episodes)
        episodes, answered = _evaluate(job, request, spec, seeds)
        constants = {
            "suite": task.suite,
            "task": task.name,
            "policy": spec.name,
            "checkpoint_hash": evaluation.checkpoint_hash,
            "step": checkpoint.row["step"] if checkpoint else None,
            "evaluation": evaluation.id,
            "environment_hash": evaluation.environment_hash,
        }
        names = [column.name for column in table("rollouts").columns]
        rows = [
            {
                **{name: value for name, value in episode.record().items() if name in names},
                **constants,
                "episode_artifact": job.keep_copy(store.path(evaluation, episode.seed, episode.arm)),
            }
            for episode in episodes
        ]
        _check(job, episodes)
        schema = {column.name: column.dtype for column in table("rollouts").columns}
        job.publish(pl.DataFrame(rows, schema=schema), _metadata(episodes, evaluation) | {"answered": answered})


def _evaluate(job: Job, request: RolloutRequest, spec: PolicySpec, seeds: Sequence[int]) -> tuple[list[Episode], str]:
    """The episodes, and who answered in them; a server is started only where some are missing."""
    arms = job.params["arms"]
    wanted = [(seed, arm) for arm in arms for seed in seeds]
    retried = job.params.get("retry_errors", False)
    there = stored(EpisodeStore(job.home.episodes), Evaluation.of(request), wanted, retry_errors=retried)
    server = job.params.get("server") if len(there) < len(wanted) else NONE
    with answering(request, spec, server) as answered, rollout_pool(job, answered.workers) as pool:
        episodes = evaluate_all(job, pool, answered.request, seeds, arms)
        if not spec.control:
            _check_expert(job, pool, find_task(request.task), seeds[: job.params["expert_seeds"]])
    return episodes, answered.said if len(there) < len(wanted) else "all episodes were there"


def _refuse_what_does_not_apply(job: Job, task: Task, spec: PolicySpec) -> None:
    engine, step = job.params["engine"], job.params["step"]
    if engine not in (None, *task.engines):
        raise ValueError(f"found engine {engine!r} for task {task.key}, expected one of {list(task.engines)}")
    if step is not None and not spec.trained:
        raise ValueError(f"found step {step} for policy {spec.name!r}, which has no checkpoints; leave it out")


def rollout_pool(job: Job, environment: Mapping[str, str] | None = None) -> RolloutPool:
    """Worker processes, one a core unless the run says otherwise; none is started before there is work for it."""
    return RolloutPool(job.params.get("workers") or len(os.sched_getaffinity(0)), environment)


def evaluate_all(
    job: Job, pool: RolloutPool, request: RolloutRequest, seeds: Sequence[int], arms: Sequence[str]
) -> list[Episode]:
    """Run what is missing of an evaluation in the store of this home; progress shows in the run."""

    def progress(done: int, wanted: int, episode: Episode) -> None:
        what = f"{request.policy}, seed {episode.seed}, {episode.arm}: {episode.outcome}"
        job.progress(done / wanted, f"{what} ({episode.stage}) after {episode.steps} steps")

    return evaluate(
        EpisodeStore(job.home.episodes),
        request,
        seeds,
        arms,
        pool=pool,
        on_progress=progress,
        time_limit_s=job.params.get("time_limit_s", 300.0),
        retry_errors=job.params.get("retry_errors", False),
    )


def _check(job: Job, episodes: Sequence[Episode]) -> None:
    errors = [f"seed {each.seed} {each.arm}: {each.error}" for each in episodes if each.outcome == ERROR]
    solved = [each.seed for each in episodes if each.outcome == SOLVED_AT_RESET]
    job.check(
        "few_errors", len(errors) <= MAX_ERROR_SHARE * len(episodes), {"errors": len(errors), "first": errors[:5]}
    )
    job.check("not_solved_at_reset", not solved, {"seeds": solved[:20]}, blocking=False)


def _check_expert(job: Job, pool: RolloutPool, task: Task, seeds: Sequence[int]) -> None:
    """The scripted expert on some of the same seeds, through the very same evaluator."""
    if task.expert is None or not seeds:
        why = f"suite {task.suite} has no scripted expert" if task.expert is None else "not asked for"
        job.check("expert_succeeds", True, {"not_run": why}, blocking=False)
        return
    request = RolloutRequest(task=task.key, policy="scripted", engine=job.params["engine"])
    outcomes = [each.outcome for each in evaluate_all(job, pool, request, seeds, ["control"])]
    job.check("expert_succeeds", SUCCESS in outcomes, {"successes": outcomes.count(SUCCESS), "n": len(outcomes)})


def _metadata(episodes: Sequence[Episode], evaluation: Evaluation) -> dict[str, Any]:
    lines = ["| arm | outcome | stage | episodes |", "|---|---|---|---:|"]
    counts = Counter((each.arm, each.outcome, each.stage) for each in episodes)
    lines += [f"| {arm} | {outcome} | {stage} | {n} |" for (arm, outcome, stage), n in sorted(counts.items())]
    return {
        "outcomes": {"raw_value": "\n".join(lines), "type": "md"},
        **_shares(episodes),
        "episodes": len(episodes),
        "errors": sum(each.outcome == ERROR for each in episodes),
        "evaluation": evaluation.id,
        "engine": ", ".join(sorted({each.engine for each in episodes})),
    }


def _shares(episodes: Sequence[Episode]) -> dict[str, float]:
    """Shares of the time of episodes that was spent on the policy, on the way to its server and back, on physics.

    An episode waits for its server while that answers others, so the first is queue and inference together.
    """
    timed = [each for each in episodes if each.policy_s is not None and each.simulation_s is not None]
    wall_s = sum(each.wall_s for each in timed)
    if not wall_s:
        return {}
    waited_s = sum(each.policy_s or 0.0 for each in timed)
    served_s = sum(each.policy_s if each.server_s is None else each.server_s for each in timed if each.policy_s)
    return {
        "share_policy": round(served_s / wall_s, 3),
        "share_transport": round((waited_s - served_s) / wall_s, 3),
        "share_physics": round(sum(each.simulation_s or 0.0 for each in timed) / wall_s, 3),
    }


if __name__ == "__main__":
    main()
