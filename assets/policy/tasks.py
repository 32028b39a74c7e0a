"""The task behind a partition key."""

import dagster as dg

from resources.tasks import RegisteredTask, registered_task


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
