"""The loop that trainings of every policy share: step, report, save, and stop where that is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from science.robots.training_result import TrainingResult


class TrainingRun(Protocol):
    """A training that stands at a step.

    Attributes
    ----------
    step : gradient steps done.
    """

    step: int

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        ...

    def take_step(self) -> float:
        """One gradient step, counted in ``step``; returns the loss."""
        ...

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        ...


class TrainingHooks(TypedDict, total=False):
    """What a training calls on its way; each may be left out.

    Attributes
    ----------
    on_step : called as (steps done, loss, learning rate).
    before_checkpoint : called before a checkpoint is written; what it raises ends the training without it.
    on_checkpoint : called as (steps done, path) once the file is whole.
    should_stop : asked after each step; where it says yes, a checkpoint is written and training returns.
    """

    on_step: Callable[[int, float, float], object]
    before_checkpoint: Callable[[], object]
    on_checkpoint: Callable[[int, Path], object]
    should_stop: Callable[[], bool]


def run_to_step(
    run: TrainingRun,
    steps: int,
    checkpoint_every: int,
    checkpoint_path: Callable[[int], Path],
    **hooks: Unpack[TrainingHooks],
) -> TrainingResult:
    """Train to ``steps`` gradient steps, saving at every ``checkpoint_every``-th, at the last, and where it is stopped.

    ``checkpoint_path`` says where the checkpoint of a step is written; ``hooks`` are `TrainingHooks`.
    """
    result = TrainingResult(first_step=run.step, last_step=run.step, finished=run.step >= steps)
    while run.step < steps:
        loss = run.take_step()
        result.losses.append(loss)
        if "on_step" in hooks:
            hooks["on_step"](run.step, loss, run.learning_rate)
        stop = "should_stop" in hooks and hooks["should_stop"]()
        if stop or run.step == steps or run.step % checkpoint_every == 0:
            path = checkpoint_path(run.step)
            if "before_checkpoint" in hooks:
                hooks["before_checkpoint"]()
            run.save(path)
            result.checkpoints[run.step] = path
            if "on_checkpoint" in hooks:
                hooks["on_checkpoint"](run.step, path)
        if stop:
            break
    result.last_step, result.finished = run.step, run.step >= steps
    return result
