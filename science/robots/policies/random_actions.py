"""Random actions: the lower bound that stands in every table. A task that they solve measures nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from science.robots.policies.base import Policy, PolicyError, PolicySpec
from science.robots.tasks.base import Observation, Task


class RandomActions(Policy):
    """Each element of each action uniform in [-1, 1]; the episode's seed decides all of them."""

    def __init__(self, action_dim: int) -> None:
        self.observation = {}
        self.action_dim = action_dim
        self.start(0)

    def start(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, observation: Observation) -> np.ndarray:
        return self._generator.uniform(-1.0, 1.0, self.action_dim)


def load(task: Task, checkpoint: Path | None) -> Policy:
    """The policy for a task.

    Raises
    ------
    PolicyError
        When it is given a checkpoint, which it would not use.
    """
    if checkpoint is not None:
        raise PolicyError(f"found a checkpoint for the policy 'random', expected none: {checkpoint}")
    return RandomActions(task.action_dim)


SPEC = PolicySpec(
    name="random",
    description="Uniformly random actions, the lower bound.",
    load="science.robots.policies.random_actions:load",
    control=True,
)
