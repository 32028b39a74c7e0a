"""tiny_vla as a policy: every batch has one shape, so no bit of a row's actions depends on the rows beside it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from science.robots.policies.base import PolicyError
from science.robots.policies.batched import BatchedPolicy, Row, image_key
from science.robots.tasks.base import Task
from science.robots.tiny_vla.checkpoint import inspect_checkpoint, read_weights
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.inputs import TaskInputs, tokens
from science.robots.tiny_vla.jax_runtime import jax
from science.robots.tiny_vla.model import Weights, sample_actions
from science.robots.tiny_vla.weights import require_shapes

BATCH = 8


def load(task: Task, checkpoint: Path) -> TinyVlaPolicy:
    """The policy of a checkpoint, for a task that it was trained on.

    Raises
    ------
    CheckpointError
        For a checkpoint that is damaged, was not committed, or is of another shape than it says.
    PolicyError
        For a task that it was not trained on.
    """
    info = inspect_checkpoint(checkpoint)
    if task.key not in info.tasks:
        raise PolicyError(
            f"found a checkpoint of {', '.join(info.tasks)}, expected one that was trained on {task.key}: it knows no "
            "other task's observation"
        )
    config = TinyVlaConfig.from_settings(info.settings)
    weights = read_weights(checkpoint)
    require_shapes(checkpoint, weights, config, info.action_dim)
    return TinyVlaPolicy(config, info.tasks[task.key], weights)


class TinyVlaPolicy(BatchedPolicy):
    """Batches are filled up to eight rows; more are answered eight by eight."""

    batch_sizes = (BATCH,)

    def __init__(self, config: TinyVlaConfig, told: TaskInputs, weights: Weights) -> None:
        self.observation, self.cameras = dict(told.observation), config.camera_sizes
        self.action_dim = len(told.action_mean)
        self.horizon_steps, self.replan_steps = config.horizon_steps, config.replan_steps
        self.noise_shape = (config.horizon_steps, self.action_dim)
        self.prompt = told.instruction
        self._config, self._told, self._weights = config, told, jax.device_put(weights)
        self._sample = jax.jit(functools.partial(sample_actions, config=config))

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        batches = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
        return np.concatenate([self._batch(each) for each in batches])

    def _batch(self, rows: Sequence[Row]) -> np.ndarray:
        """Chunks of at most eight rows; the places that are left are filled with the last one."""
        filled = [*rows, *[rows[-1]] * (BATCH - len(rows))]
        states = np.stack([self._told.state(row.observation) for row in filled])
        batch = {
            "tokens": tokens([row.prompt or self.prompt or "" for row in filled]),
            "state": self._told.normalised_state(states, self._config.state_width),
            "noise": np.stack([np.asarray(row.noise, np.float32) for row in filled]),
        }
        if self.cameras:
            pictures = [[row.observation[image_key(camera)] for camera in self.cameras] for row in filled]
            batch["pictures"] = np.stack([np.stack(each) for each in pictures])
        return self._told.actions(np.asarray(self._sample(self._weights, batch))[: len(rows)])
