"""The `mimicgen` suite: MimicGen's own tasks, run by the MimicGen that the user has installed.

MimicGen's licence allows non-commercial use only. Nothing of it is part of this project; it is found in the Python
that runs the jobs (`$TRACEBED_PYTHON_MIMICGEN` where set) and imported by `make`. Importing this module is light.

Two modes, recorded in the provenance and thus in the environment's hash, never mixed: `faithful` is robosuite 1.4.1,
for which MimicGen is written; `shim-1.5` is robosuite 1.5.2 with the few lines of `mimicgen_shim.py`. Its tasks are
the same, its control step and placements are not. The task names are those of the `open` suite where the task is the
same, but a result of one suite is never a result of the other.

HammerCleanup and Kitchen need the package robosuite_task_zoo, and run in faithful mode only.
"""

from __future__ import annotations

import logging

from science.robots.tasks.base import ROBOSUITE, Simulation, Suite, Task
from science.robots.tasks.mimicgen_install import provenance, unavailable
from science.robots.tasks.mimicgen_tasks import NAMES, family, instruction

NAME = "mimicgen"


def _is_error(record: logging.LogRecord) -> bool:
    """robosuite warns at every import of robots and solvers that no task here uses."""
    return record.levelno >= logging.ERROR


def _make(name: str, engine: str) -> Simulation:
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    from science.robots.tasks.mimicgen_simulation import MimicgenSimulation

    return MimicgenSimulation(SUITE.tasks[name], engine)


def _task(name: str) -> Task:
    of = family(name)
    return Task(
        suite=NAME,
        name=name,
        version="1",
        horizon_steps=of.horizon_steps,
        control_hz=20,
        observation={
            "robot0_eef_pos": 3,
            "robot0_eef_quat": 4,
            "robot0_gripper_qpos": 2,
            "object": of.object_length(),
        },
        action_dim=7,
        milestones=tuple(milestone for goal in of.goals for milestone in goal.milestones()),
        make=lambda engine: _make(name, engine),
        engines=(ROBOSUITE,),
        instruction=instruction(name),
        cameras=("agentview", "robot0_eye_in_hand"),
    )


SUITE = Suite(
    name=NAME,
    tasks={name: _task(name) for name in NAMES},
    environment=NAME,
    unavailable=unavailable,
    provenance=provenance,
)
