"""Gathers the evidence of a diagnosis by measuring it. For worker processes: imports simulator and policy.

Expert, random policy and replayed demonstrations go through the very evaluator whose rate is in question: ``evaluate``
runs a request as the rollouts were run. What is asked of the policy itself goes around the evaluator: a plain
simulation of the task, and the policy as its spec makes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from science.robots.action_error import action_error
from science.robots.cameras import Cameras
from science.robots.demonstration_checks import TRAIN, VALID, DemonstrationReport, validate_demonstrations
from science.robots.demonstrations import read_demonstrations
from science.robots.diagnosis.evidence import ActionError, Consistency, Counts, Evidence, Starts, starts_outside
from science.robots.diagnosis.facts import Facts
from science.robots.diagnosis.replayed import REPLAYED
from science.robots.policies.base import Policy, PolicySpec
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import ERROR, FAILURE, SOLVED_AT_RESET, SUCCESS, Episode
from science.robots.rollouts.pool import RolloutRequest
from science.robots.rollouts.worker import build_simulation
from science.robots.seeds import EVALUATION, take
from science.robots.tasks.base import ROBOSUITE, Simulation, Task
from science.robots.tasks.registry import find_suite, find_task

CONSISTENT_EPISODES = 3
CONSISTENT_STEPS = 20
SHOWN_DEMONSTRATIONS = 20

Evaluate = Callable[[RolloutRequest, Sequence[int]], Sequence[Episode]]


@dataclass(frozen=True)
class Trained:
    """What is known of a trained policy beside its checkpoint.

    Attributes
    ----------
    checkpoint : its file. step : its training step.
    demonstrations : the HDF5 that it was trained on, or None where that is not there.
    recording : the expert's episodes while it recorded them (kept of attempted), or None.
    success_curve, loss_curve : (step, successes, n) on the selection seeds, and (step, loss).
    """

    checkpoint: Path
    step: int | None = None
    demonstrations: Path | None = None
    recording: Counts | None = None
    success_curve: Sequence[tuple[int, int, int]] = ()
    loss_curve: Sequence[tuple[int, float]] = ()


def counts(episodes: Sequence[Episode]) -> Counts:
    """Episodes as counts."""
    outcomes = Counter(each.outcome for each in episodes)
    return Counts(
        successes=outcomes[SUCCESS],
        n=outcomes[SUCCESS] + outcomes[FAILURE],
        errors=outcomes[ERROR],
        solved_at_reset=outcomes[SOLVED_AT_RESET],
        stages=Counter(each.stage for each in episodes),
        messages=Counter(_message(each) for each in episodes if each.error),
    )


def _message(episode: Episode) -> str:
    return (episode.error or "").partition("\n")[0]


def gather(
    evaluate: Evaluate,
    request: RolloutRequest,
    rollouts: Sequence[Episode],
    trained: Trained | None,
    *,
    expert_seeds: int,
    random_seeds: int,
    replayed: int,
) -> Evidence:
    """Measure everything that can be measured of a policy's unperturbed ``rollouts`` of a ``request``."""
    task = find_task(request.task)
    spec = request.policy_spec or find_policy(request.policy)
    through = replace(request, checkpoint=None, policy_spec=None, server=None)
    evidence = Evidence(
        rollouts=counts(rollouts),
        task=task.key,
        policy=spec.name,
        milestones=task.milestones,
        expert=counts(evaluate(replace(through, policy="scripted"), take(EVALUATION, expert_seeds)))
        if task.expert and expert_seeds
        else None,
        random=counts(evaluate(replace(through, policy="random"), take(EVALUATION, random_seeds)))
        if random_seeds
        else None,
    )
    if trained is None:
        return evidence
    plain = task.make(ROBOSUITE)
    evaluator = build_simulation(request)
    try:
        policy = spec.make(plain.task, trained.checkpoint)
        evidence = replace(
            evidence,
            step=trained.step,
            expert_recording=trained.recording,
            success_curve=trained.success_curve,
            loss_curve=trained.loss_curve,
            consistency=consistency(plain, policy, rollouts),
            facts=_facts(spec, task, trained, evaluator, request, None),
        )
        if trained.demonstrations is None:
            return evidence
        report = validate_demonstrations(trained.demonstrations, task)
        errors = {
            mask: ActionError.from_record(
                action_error(policy, trained.demonstrations, mask=mask, n=SHOWN_DEMONSTRATIONS)
            )
            for mask in (TRAIN, VALID)
            if report.masks.get(mask) and not policy.cameras  # demonstrations are recorded without pictures
        }
        return replace(
            evidence,
            replays=_replays(evaluate, through, trained.demonstrations, report, replayed),
            train_error=errors.get(TRAIN),
            valid_error=errors.get(VALID),
            n_demonstrations=len(report.masks.get(TRAIN, ())),
            n_samples=report.n_samples,
            starts=_starts(evaluator, policy, trained.demonstrations, [each.seed for each in rollouts]),
            facts=_facts(spec, task, trained, evaluator, request, report),
        )
    finally:
        plain.close()
        evaluator.close()


def consistency(plain: Simulation, policy: Policy, rollouts: Sequence[Episode]) -> Consistency | None:
    """Ask the policy again for the actions of the last rollouts, in a plain simulation of the task.

    An episode is followed as long as the plain simulation has its states, bit for bit; where the evaluator resets
    otherwise, only its first state can be compared. The last episodes are taken: what an evaluator carries over from
    one episode to the next does not show in the first.
    """
    differences: list[float] = []
    with Cameras(plain, policy.cameras) as cameras:
        for episode in [each for each in rollouts if each.outcome in (SUCCESS, FAILURE)][-CONSISTENT_EPISODES:]:
            observation = plain.reset(episode.seed)
            if not np.array_equal(plain.state(), episode.states[0]):
                plain.set_state(episode.states[0])
                observation = plain.observe()
            cameras.begin()
            policy.start(episode.seed)
            for step, action in enumerate(episode.actions[:CONSISTENT_STEPS]):
                differences.append(float(np.abs(np.asarray(policy.act(cameras.see(observation))) - action).max()))
                observation = plain.step(action)
                if not np.array_equal(plain.state(), episode.states[step + 1]):
                    break
    return Consistency(max(differences), len(differences)) if differences else None


def _replays(
    evaluate: Evaluate, through: RolloutRequest, dataset: Path, report: DemonstrationReport, n: int
) -> Counts | None:
    """None where the file names no seeds: its episodes cannot be begun again by seed."""
    if report.seeds is None or not n:
        return None
    request = replace(through, policy=REPLAYED.name, policy_spec=REPLAYED, checkpoint=dataset)
    return counts(evaluate(request, report.seeds[:n]))


def _starts(evaluator: Simulation, policy: Policy, dataset: Path, seeds: Sequence[int]) -> Starts | None:
    keys = sorted(policy.observation)
    known = [np.concatenate([demo.observations[key][0] for key in keys]) for demo in read_demonstrations(dataset)]
    if len(known) < 2 or not seeds:
        return None
    firsts = [evaluator.reset(seed) for seed in seeds]
    if any(key not in first or first[key].shape != (policy.observation[key],) for first in firsts for key in keys):
        return None  # keys or lengths that do not fit are a fault of the settings, and told there
    seen = [np.concatenate([np.asarray(first[key], dtype=np.float64) for key in keys]) for first in firsts]
    names = [f"{key}[{index}]" for key in keys for index in range(policy.observation[key])]
    return starts_outside(np.stack(known), np.stack(seen), names)


def _facts(
    spec: PolicySpec,
    task: Task,
    trained: Trained,
    evaluator: Simulation,
    request: RolloutRequest,
    report: DemonstrationReport | None,
) -> Facts:
    told: dict[str, Any] = {}
    if spec.facts is not None:
        module, _, function = spec.facts.partition(":")
        told = getattr(import_module(module), function)(trained.checkpoint)
    if report is not None and trained.demonstrations is not None:
        limit = max(float(np.abs(demo.actions).max()) for demo in read_demonstrations(trained.demonstrations))
        told |= {
            "demonstration_action_limit": limit,
            "demonstration_steps": list(report.lengths),
            "demonstration_env_args": report.env_args,
            "demonstration_versions": _versions({"robosuite": report.env_args.get("env_version")}),
        }
    return Facts(
        **told,
        evaluation_observation=dict(evaluator.task.observation),
        evaluation_action_dim=evaluator.task.action_dim,
        evaluation_task=task.key,
        horizon_steps=request.horizon_steps or evaluator.task.horizon_steps,
        evaluation_env_args=json.loads(json.dumps(dict(evaluator.env_args()))),
        evaluation_versions=_versions({"robosuite": find_suite(task.suite).provenance().get("robosuite")}),
    )


def _versions(found: Mapping[str, str | None]) -> dict[str, str]:
    return {name: version for name, version in found.items() if version}
