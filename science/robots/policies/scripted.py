"""The suite's scripted expert through the same evaluator as every policy: if it fails, the evaluation is at fault."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from science.robots.policies.base import Policy, PolicyError, PolicySpec
from science.robots.tasks.base import Task


def load(task: Task, checkpoint: Path | None) -> Policy:
    """The expert that the task names, without action noise.

    Raises
    ------
    PolicyError
        When the task has no expert, or a checkpoint is given.
    """
    if checkpoint is not None:
        raise PolicyError(f"found a checkpoint for the policy 'scripted', expected none: {checkpoint}")
    return make_expert(task)


def make_expert(task: Task, noise: float = 0.0) -> Policy:
    """The expert that the task names as ``module:Class``, with ``noise`` (standard deviation) on its arm actions.

    Raises
    ------
    PolicyError
        When the task has no expert.
    """
    if task.expert is None:
        raise PolicyError(
            f"found no scripted expert for task {task.key}: its suite brings none; expected a task with one, or "
            f"demonstrations and rollouts of another policy"
        )
    module, _, name = task.expert.partition(":")
    expert: Policy = getattr(import_module(module), name)(task, noise=noise)
    return expert


SPEC = PolicySpec(
    name="scripted",
    description="The suite's scripted expert, the upper bound.",
    load="science.robots.policies.scripted:load",
    control=True,
)
