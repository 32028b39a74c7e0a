"""Demonstrations as a policy: what was executed is executed again, so that it goes through the very same evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from science.robots.demonstrations import read_demonstrations
from science.robots.policies.base import Policy, PolicyError, PolicySpec
from science.robots.tasks.base import Observation, Task

REPLAYED = PolicySpec(
    name="replayed_demonstrations",
    description="The recorded actions of a demonstration, on the seed of that demonstration.",
    load="science.robots.diagnosis.replayed:load",
    trained=True,
)
"""Its checkpoint is the demonstrations' HDF5; its seeds are those of the demonstrations."""


def load(task: Task, checkpoint: Path | None) -> Policy:
    """The demonstrations of a file as a policy for their own seeds."""
    if checkpoint is None:
        raise PolicyError("replaying demonstrations needs their HDF5 and was given none")
    return ReplayedDemonstrations(task, checkpoint)


class ReplayedDemonstrations(Policy):
    """Plays back one demonstration an episode; after its end the arm stands still and the gripper stays as it was."""

    def __init__(self, task: Task, dataset: Path):
        self.observation = {}
        self.action_dim = task.action_dim
        self._executed = {demo.seed: demo.executed_actions for demo in read_demonstrations(dataset)}

    def start(self, seed: int) -> None:
        if seed not in self._executed:
            raise PolicyError(f"found no demonstration of seed {seed} among {len(self._executed)}")
        self._actions, self._step = self._executed[seed], 0

    def act(self, observation: Observation) -> np.ndarray:
        step, self._step = self._step, self._step + 1
        if step < len(self._actions):
            return self._actions[step]
        still = np.zeros(self.action_dim)
        still[-1] = self._actions[-1][-1]
        return still
