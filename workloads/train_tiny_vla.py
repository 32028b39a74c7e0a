"""Trains tiny_vla: a base on the demonstrations of several tasks, or a fine-tune of one on those of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from science.robots.demonstration_pictures import with_pictures
from science.robots.tasks.engines import make_simulation
from science.robots.tiny_vla.checkpoint import inspect_checkpoint
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.training import train
from science.robots.training_result import TrainingResult
from workloads.training import Method, TrainingInputs, run_training


def _learn(given: TrainingInputs) -> TrainingResult:
    config = TinyVlaConfig.from_settings(dict(given.settings))
    return train(
        config,
        _with_pictures(given, config.camera_sizes) if config.cameras else given.datasets,
        given.directory,
        base=given.base,
        resume_from=given.resume_from,
        **given.hooks,
    )


def _with_pictures(given: TrainingInputs, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Path]:
    """The demonstrations with what cameras saw, drawn once for an attempt."""
    found = {task.key: given.directory / "pictures" / f"{task.key}.hdf5" for task in given.tasks}
    for task in given.tasks:
        if not found[task.key].exists():
            simulation = make_simulation(task)
            try:
                with_pictures(given.datasets[task.key], simulation, sizes, found[task.key])
            finally:
                simulation.close()
    return found


def _versions(checkpoint: Path) -> Mapping[str, str]:
    return inspect_checkpoint(checkpoint).versions


if __name__ == "__main__":
    run_training(Method(_learn, _versions))
