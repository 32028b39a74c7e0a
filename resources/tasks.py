"""Tasks as the platform sees them: a partition key that names a task of an installed suite, and where its jobs run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisteredTask:
    """A task behind a partition key.

    Attributes
    ----------
    key : `<suite>.<task>`.
    suite, name : its parts.
    environment : name of the interpreter that its jobs need.
    has_expert : whether the suite brings a scripted expert for it.
    """

    key: str
    suite: str
    name: str
    environment: str
    has_expert: bool


def registered_task(key: str) -> RegisteredTask:
    """The task of a partition key.

    Raises
    ------
    TaskError
        When no installed suite has it, naming those that there are.
    """
    from science.robots.tasks.registry import find_suite, find_task

    task = find_task(key)
    return RegisteredTask(key, task.suite, task.name, find_suite(task.suite).environment, task.expert is not None)
