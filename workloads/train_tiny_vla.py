"""Trains tiny_vla: a base on the demonstrations of several tasks, or a fine-tune of one on those of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from science.robots.tiny_vla.checkpoint import inspect_checkpoint
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.training import train

from science.robots.training_result import TrainingResult
from workloads.training import Method, TrainingInputs, run_training


def _learn(given: TrainingInputs) -> TrainingResult:
    return train(
        TinyVlaConfig.from_settings(dict(given.settings)),
        given.datasets,
        given.directory,
        base=given.base,
        resume_from=given.resume_from,
        **given.hooks,
    )


def _versions(checkpoint: Path) -> Mapping[str, str]:
    return inspect_checkpoint(checkpoint).versions


if __name__ == "__main__":
    run_training(Method(_learn, _versions))
