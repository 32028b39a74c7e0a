"""Faults that `bench/diagnosis.py` and the tests plant: broken evaluators, and a policy that is handled wrongly.

Each `..._evaluator` is named by `RolloutRequest.load` and makes a simulation that differs from the task's in one way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from science.robots.policies.base import Policy, PolicySpec
from science.robots.rollouts.pool import RolloutRequest
from science.robots.tasks.base import ROBOSUITE, Observation, Simulation, Task
from science.robots.tasks.open_simulation import OpenSimulation
from science.robots.tasks.open_suite import SUITE


def _open(request: RolloutRequest, kind: type[OpenSimulation], arguments: Mapping[str, object] | None = None):
    task = SUITE.tasks[request.task.partition(".")[2]]
    environment = {"Lift": "Lift", "Stack_D0": "Stack"}[task.name]
    return kind(task, environment, dict(arguments or {}), ROBOSUITE)


class _NeverSolved(OpenSimulation):
    def success(self) -> bool:
        return False


def never_solved_evaluator(request: RolloutRequest) -> Simulation:
    """Its success test always says no."""
    return _open(request, _NeverSolved)


class _InvertedGripper(OpenSimulation):
    def step(self, action: np.ndarray) -> Observation:
        return super().step(np.append(action[:-1], -action[-1]))


def inverted_gripper_evaluator(request: RolloutRequest) -> Simulation:
    """It opens the gripper where the policy closes it."""
    return _open(request, _InvertedGripper)


def weak_controller_evaluator(request: RolloutRequest) -> Simulation:
    """Its controller makes a fifth of each commanded displacement; `env_args` say so, as a file's would."""
    return _weak_controller(request, 5)


def feeble_controller_evaluator(request: RolloutRequest) -> Simulation:
    """The same with a twentieth."""
    return _weak_controller(request, 20)


def _weak_controller(request: RolloutRequest, divisor: float) -> Simulation:
    import robosuite

    config = deepcopy(robosuite.load_composite_controller_config(robot="Panda"))
    arm = config["body_parts"]["right"]
    arm["output_max"] = [value / divisor for value in arm["output_max"]]
    arm["output_min"] = [value / divisor for value in arm["output_min"]]
    return _open(request, OpenSimulation, {"controller_configs": config})


class _StaleObservation(Policy):
    """A policy whose adapter hands on only the first observation of an episode."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self.observation, self.action_dim = policy.observation, policy.action_dim

    def start(self, seed: int) -> None:
        self._policy.start(seed)
        self._first: Observation | None = None

    def act(self, observation: Observation) -> np.ndarray:
        self._first = self._first or observation
        return self._policy.act(self._first)


def load_stale_observation(task: Task, checkpoint: Path | None) -> Policy:
    """BC-RNN behind an adapter that goes on showing it the first observation."""
    from science.robots.bc_rnn.policy import load

    return _StaleObservation(load(task, checkpoint))


STALE_OBSERVATION = PolicySpec("bc_rnn", "stale observation", "bench._planted:load_stale_observation", trained=True)


def without_normalisation(content: dict[str, Any]) -> None:
    """Take the normalisation statistics out of a checkpoint's content."""
    del content["obs_normalization_stats"]


def with_other_statistics(content: dict[str, Any]) -> None:
    """Give a checkpoint's content statistics of another scale, as of another dataset."""
    for statistics in content["obs_normalization_stats"].values():
        statistics["scale"] = (10 * np.asarray(statistics["scale"])).tolist()


def edited(checkpoint: Path, destination: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint whose content was edited."""
    import torch

    from science.robots.bc_rnn.checkpoint import read_checkpoint

    content = read_checkpoint(checkpoint)
    edit(content)
    torch.save(content, destination)
    return destination
