"""Policies and simulations that misbehave, for tests of rollouts; workers import them by name, with tests/ on the path.

`Misbehaving` is the scripted expert of Lift, but for some seeds, in control step 5.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from science.robots.policies.base import Policy, PolicySpec
from science.robots.policies.scripted import make_expert
from science.robots.rollouts.pool import RolloutRequest
from science.robots.tasks.base import Observation, Simulation, Task
from science.robots.tasks.registry import find_task

BEHAVIOUR = {
    1: "raise",
    2: "nan",
    3: "out of range",
    4: "wrong size",
    101: "hang",
    102: "kill",
    103: "exit",
}
SOUND_SEEDS = (0, 5)
AT_STEP = 5


class Misbehaving(Policy):
    """The scripted expert, but for the seeds of `BEHAVIOUR`."""

    def __init__(self, task: Task):
        self.expert = make_expert(task)
        self.observation, self.action_dim = self.expert.observation, self.expert.action_dim

    def start(self, seed: int) -> None:
        self.expert.start(seed)
        self.behaviour, self.step = BEHAVIOUR.get(seed, ""), 0

    def act(self, observation: Observation) -> np.ndarray:
        action = self.expert.act(observation)
        self.step += 1
        return self._spoilt(action) if self.step > AT_STEP else action

    def _spoilt(self, action: np.ndarray) -> np.ndarray:
        match self.behaviour:
            case "raise":
                raise TypeError("can't convert np.ndarray of type numpy.object_")
            case "nan":
                return action * np.nan
            case "out of range":
                return action + 3.0
            case "wrong size":
                return action[:-1]
            case "hang":
                print("about to hang", flush=True)
                time.sleep(3600)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit("this policy leaves")
        return action


class OpenLoop(Policy):
    """Plays actions back, whatever it sees."""

    observation: dict[str, int] = {}

    def __init__(self, actions: np.ndarray):
        self.actions, self.action_dim = actions, actions.shape[1]

    def start(self, seed: int) -> None:
        self.step = 0

    def act(self, observation: Observation) -> np.ndarray:
        self.step += 1
        return self.actions[min(self.step, len(self.actions)) - 1]


def misbehaving(task: Task, checkpoint: Path | None) -> Policy:
    return Misbehaving(task)


def unfit(task: Task, checkpoint: Path | None) -> Policy:
    policy = Misbehaving(task)
    policy.observation = {"a_key_that_no_task_has": 3}
    return policy


MISBEHAVING = PolicySpec("misbehaving", "Misbehaves.", "rollout_probe_policies:misbehaving")
UNFIT = PolicySpec("unfit", "Reads what is not there.", "rollout_probe_policies:unfit")


def begins_solved(request: RolloutRequest) -> Simulation:
    """Lift whose episodes of odd seeds begin with the cube in the air."""
    simulation = find_task(request.task).make("robosuite")
    reset = simulation.reset

    def reset_solved(seed: int) -> Observation:
        observation = reset(seed)
        if seed % 2:
            simulation.move_object("cube", np.array([0.0, 0.0, 0.1]))
        return observation

    simulation.reset = reset_solved  # type: ignore[method-assign]
    return simulation


def diverges(request: RolloutRequest) -> Simulation:
    """Lift whose physics MuJoCo gives up in control step 3, as it does by itself: with a warning and a reset."""
    simulation = find_task(request.task).make("robosuite")
    step, steps = simulation.step, []

    def step_and_diverge(action: np.ndarray) -> Observation:
        steps.append(action)
        if len(steps) == 3:
            simulation.mujoco_data.qvel[:] = 1e12
        return step(action)

    simulation.step = step_and_diverge  # type: ignore[method-assign]
    return simulation


def no_simulation(request: RolloutRequest) -> Simulation:
    raise FileNotFoundError("found no meshes of the gripper")
