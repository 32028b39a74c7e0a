"""The task behind a partition key."""

from typing import Any

import dagster as dg

from resources.compute.interface import Needs
from resources.tasks import RegisteredTask, registered_task


def task_needs(task: RegisteredTask, *packages: str, **given: Any) -> Needs:
    """What a job on a task needs: its environment, the simulator, and what is given."""
    needs = Needs(memory_gb=4, environment=task.environment, packages=("mujoco", "robosuite", *packages))
    return needs.with_(given)


def task_of(context: dg.AssetExecutionContext) -> RegisteredTask:
    """The task of the run's partition.

    Raises
    ------
    dagster.Failure
        When the key names no task that is installed.
    """
    from science.robots.tasks.base import TaskError

    try:
        return registered_task(context.partition_key)
    except TaskError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
