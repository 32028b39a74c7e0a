"""Trains BC-RNN on one task's demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from science.robots.bc_rnn.checkpoint import inspect_checkpoint
from science.robots.bc_rnn.config import BcRnnConfig
from science.robots.bc_rnn.training import train
from science.robots.training_result import TrainingResult
from workloads.training import Method, TrainingInputs, run_training


def _learn(given: TrainingInputs) -> TrainingResult:
    (task,) = given.tasks
    config = BcRnnConfig.from_settings(dict(given.settings))
    return train(config, given.datasets[task.key], task, given.directory, resume_from=given.resume_from, **given.hooks)


def _versions(checkpoint: Path) -> Mapping[str, str]:
    return inspect_checkpoint(checkpoint).versions


if __name__ == "__main__":
    run_training(Method(_learn, _versions))
