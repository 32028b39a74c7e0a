"""Faults that `bench/diagnosis.py` and the tests plant: broken evaluators, and a policy that is handled wrongly.

Each `..._evaluator` is named by `RolloutRequest.load` and makes a simulation that differs from the task's in one way.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np

from science.robots.policies.base import Policy, PolicySpec
from science.robots.rollouts.pool import RolloutRequest
from science.robots.tasks.base import ROBOSUITE, Observation, Simulation, Task
from science.robots.tasks.open_simulation import OpenSimulation
from science.robots.tasks.open_suite import SUITE

WIDER_M = 0.12


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


class _Permuted(OpenSimulation):
    def _kept(self, observation: Mapping[str, np.ndarray]) -> Observation:
        kept = dict(super()._kept(observation))
        kept["object"] = np.roll(kept["object"], 3)
        return kept


def permuted_evaluator(request: RolloutRequest) -> Simulation:
    """It hands the object's state over in another order."""
    return _open(request, _Permuted)


class _Wider(OpenSimulation):
    def reset(self, seed: int) -> Observation:
        super().reset(seed)
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        self.move_object(self.target(), WIDER_M * np.array([np.cos(angle), np.sin(angle), 0.0]))
        return self.observe()


def wider_evaluator(request: RolloutRequest) -> Simulation:
    """Its resets place the object 12 cm away from where the task would: another distribution than that of training."""
    return _open(request, _Wider)


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


class _NeverStarted(Policy):
    """A policy whose hidden state outlives the episode: the adapter forgot to start it anew."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self.observation, self.action_dim = policy.observation, policy.action_dim
        self._started = False

    def start(self, seed: int) -> None:
        if not self._started:
            self._policy.start(seed)
            self._started = True

    def act(self, observation: Observation) -> np.ndarray:
        return self._policy.act(observation)


def load_never_started(task: Task, checkpoint: Path | None) -> Policy:
    """BC-RNN behind an adapter that starts it once, not at every episode."""
    from science.robots.bc_rnn.policy import load

    return _NeverStarted(load(task, checkpoint))


class _HalfDeaf(Policy):
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

    return _HalfDeaf(load(task, checkpoint))


NEVER_STARTED = PolicySpec("bc_rnn", "not started anew", "bench._planted:load_never_started", trained=True)
STALE_OBSERVATION = PolicySpec("bc_rnn", "stale observation", "bench._planted:load_stale_observation", trained=True)


def without_normalisation(checkpoint: Path, destination: Path) -> Path:
    """A copy of a checkpoint that lost its normalisation statistics."""
    import torch

    from science.robots.bc_rnn.checkpoint import read_checkpoint

    content = read_checkpoint(checkpoint)
    del content["obs_normalization_stats"]
    torch.save(content, destination)
    return destination
