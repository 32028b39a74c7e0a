"""Which engine runs a task: the one that is asked for, or the first of the task's that works on this machine."""

from __future__ import annotations

import logging

from science.robots.engine import EngineError
from science.robots.tasks.base import ROBOSUITE, Simulation, Task

_LOG = logging.getLogger(__name__)


def make_simulation(task: Task, engine: str | None = None) -> Simulation:
    """The task's simulation.

    Without ``engine`` the task's engines are tried in their order; one that cannot give robosuite's bits on this
    machine (another BLAS, say) is named in the log, and the next is taken. `Simulation.engine` names what runs, as do
    all rows that come of it.

    Raises
    ------
    EngineError
        When the engine that was asked for does not work here.
    TaskError
        For an engine that was not verified for the task.
    """
    if engine is not None:
        return task.make(engine)
    for preferred in task.engines:
        try:
            return task.make(preferred)
        except EngineError as error:
            _LOG.warning("engine %s cannot run %s here: %s; the next one is taken", preferred, task.key, error)
    return task.make(ROBOSUITE)
