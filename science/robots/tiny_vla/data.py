"""Demonstrations of one or several tasks as batches; which samples are in a batch depends on the seed and the step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from science.robots.demonstration_checks import TRAIN, DemonstrationError, validate_demonstrations
from science.robots.demonstrations import read_demonstrations
from science.robots.policies.batched import image_key
from science.robots.tasks.registry import find_task
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.inputs import TaskInputs, tokens
from science.robots.training_result import TrainingError

_LATE_NOISE = 1.5  # flow times are drawn from Beta(1.5, 1), more of them near noise, as pi0 does


@dataclass(frozen=True)
class _TaskSamples:
    """One task's samples: ``n`` states ``[n, state_width]``, chunks ``[n, horizon_steps, action_dim]``, which of their
    steps are before the end ``[n, horizon_steps]``, and pictures ``[n, cameras, px, px, 3]``."""

    states: np.ndarray
    chunks: np.ndarray
    valid: np.ndarray
    pictures: np.ndarray | None


class TrainingData:
    """Samples of all tasks; each task is drawn as often as any other.

    Attributes
    ----------
    tasks : task key -> what the network is told of it.
    action_dim : length of an action.
    hashes : task key -> SHA-256 of its file.
    """

    def __init__(self, config: TinyVlaConfig, datasets: Mapping[str, Path]) -> None:
        """Read and check everything.

        Raises
        ------
        DemonstrationError
            For a file that does not fit its task, or has no ``mask/train``.
        TrainingError
            For no file, tasks that do not go together, an observation wider than ``state_width``, or pictures that are
            missing or of another size.
        """
        if not datasets:
            raise TrainingError("found no demonstrations, expected those of at least one task")
        self.config = config
        self.tasks: dict[str, TaskInputs] = {}
        self.hashes: dict[str, str] = {}
        self._samples: list[_TaskSamples] = []
        for key, path in sorted(datasets.items()):
            with path.open("rb") as stream:
                self.hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            self._add(key, path)
        dims = {key: len(each.action_mean) for key, each in self.tasks.items()}
        if len(set(dims.values())) != 1:
            raise TrainingError(f"found actions of different lengths {dims}, expected tasks with actions of one length")
        self.action_dim = next(iter(dims.values()))
        self._tokens = tokens([each.instruction for each in self.tasks.values()])

    @property
    def n(self) -> int:
        """Samples in all."""
        return sum(len(each.states) for each in self._samples)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a gradient step, see `model.flow_loss`."""
        config = self.config
        generator = np.random.default_rng((config.seed, 1, step))
        which = generator.integers(len(self._samples), size=config.batch_size)
        rows = [int(generator.integers(len(self._samples[task].states))) for task in which]
        chosen = [(self._samples[task], row) for task, row in zip(which, rows, strict=True)]
        draws = (config.batch_size, config.draws)
        found = {
            "tokens": self._tokens[which],
            "state": np.stack([each.states[row] for each, row in chosen]),
            "actions": np.stack([each.chunks[row] for each, row in chosen]),
            "valid": np.stack([each.valid[row] for each, row in chosen]),
            "noise": generator.standard_normal((*draws, config.horizon_steps, self.action_dim), np.float32),
            "time": (0.001 + 0.999 * generator.beta(_LATE_NOISE, 1, draws)).astype(np.float32),
        }
        if config.cameras:
            found["pictures"] = np.stack([each.pictures[row] for each, row in chosen if each.pictures is not None])
        return found

    def _add(self, key: str, path: Path) -> None:
        config, task = self.config, find_task(key)
        report = validate_demonstrations(path, task)
        if TRAIN not in report.masks:
            raise DemonstrationError(
                f"found masks {sorted(report.masks)} in {path}, expected {TRAIN!r}; import_demonstrations adds masks"
            )
        width = sum(task.observation.values())
        if width > config.state_width:
            raise TrainingError(
                f"found an observation of {width} numbers in {key}, expected at most state_width = "
                f"{config.state_width}; train a base with more"
            )
        demonstrations = list(read_demonstrations(path, TRAIN))
        states = [
            np.concatenate([demo.observations[name] for name in task.observation], axis=1) for demo in demonstrations
        ]
        actions = [demo.actions for demo in demonstrations]
        told = TaskInputs.of(task.observation, task.instruction, np.concatenate(states), np.concatenate(actions))
        chunks = [_chunks(told.normalised_actions(each), config.horizon_steps) for each in actions]
        pictures = [_pictures(demo.observations, config, f"{key}: {path}") for demo in demonstrations]
        self.tasks[key] = told
        self._samples.append(
            _TaskSamples(
                np.concatenate([told.normalised_state(each, config.state_width) for each in states]),
                np.concatenate([each for each, _ in chunks]),
                np.concatenate([valid for _, valid in chunks]),
                np.concatenate(pictures) if config.cameras else None,
            )
        )


def _chunks(actions: np.ndarray, horizon_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """From each of ``T`` steps on the next actions ``[T, horizon_steps, action_dim]``, and which are before the end."""
    steps = np.arange(len(actions))[:, None] + np.arange(horizon_steps)
    return actions[np.minimum(steps, len(actions) - 1)], (steps < len(actions)).astype(np.float32)


def _pictures(observations: Mapping[str, np.ndarray], config: TinyVlaConfig, where: str) -> np.ndarray:
    """``[T, cameras, px, px, 3]`` uint8; nothing without cameras."""
    if not config.cameras:
        return np.empty(0)
    side = config.camera_px
    for camera in config.cameras:
        shape = observations[image_key(camera)].shape[1:] if image_key(camera) in observations else None
        if shape != (side, side, 3):
            raise TrainingError(
                f"found pictures of {camera} of shape {shape} in {where}, expected {(side, side, 3)}; draw them with "
                "demonstration_pictures.with_pictures"
            )
    return np.stack([observations[image_key(camera)] for camera in config.cameras], axis=1)
