"""The `open` suite: Lift, Stack and StackThree with a Panda on robosuite's public API, under robosuite's licence.

Its names are MimicGen's where the task is the same, yet it is another implementation: a result of this suite is never
compared silently with one of `mimicgen`. Importing this module is light; `make` imports robosuite and mujoco.

| task | reset (x, y around the table's centre, any yaw) | horizon | success |
|---|---|---|---|
| Lift | +-0.03 m, cube half-extent drawn from 0.020-0.022 m | 200 | cube's centre above the table top + 0.04 m |
| Stack_D0 / D1 | +-0.08 / +-0.20 m | 400 | A not grasped, centre above the table top + 0.04 m, touching B |
| StackThree_D0 / D1 | +-0.10 / +-0.20 m | 400 | the same for A, and C not grasped, above + 0.08 m, touching A |

Lift's horizon is 200 steps (10 s): the expert needs about 40, and an episode that fails is not worth more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from science.robots.tasks.base import EXACT, ROBOSUITE, Simulation, Suite, Task

NAME = "open"
ROBOSUITE_VERSION = "1.5.2"
"""Resets by seed need `env.rng`, which 1.5.1 has not; later versions were not verified."""

_STACK_MILESTONES = ("reach", "grasp", "lift", "align", "release")

_ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Lift": ("Lift", {}),
    "Stack_D0": ("Stack", {}),
    "Stack_D1": ("OpenStack", {"half_range_m": 0.20}),
    "StackThree_D0": ("OpenStackThree", {"half_range_m": 0.10}),
    "StackThree_D1": ("OpenStackThree", {"half_range_m": 0.20}),
}
"""robosuite's environment name and what is given to it, by task."""


def _is_error(record: logging.LogRecord) -> bool:
    """robosuite warns at every import of robots and solvers that no task here uses."""
    return record.levelno >= logging.ERROR


def _make(name: str, engine: str) -> Simulation:
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    from science.robots.tasks.open_simulation import OpenSimulation

    environment, arguments = _ENVIRONMENTS[name]
    return OpenSimulation(SUITE.tasks[name], environment, arguments, engine)


def _task(
    name: str, horizon_steps: int, object_length: int, milestones: tuple[str, ...], expert: str, instruction: str
) -> Task:
    return Task(
        suite=NAME,
        name=name,
        version="1",
        horizon_steps=horizon_steps,
        control_hz=20,
        observation={
            "robot0_eef_pos": 3,
            "robot0_eef_quat": 4,
            "robot0_gripper_qpos": 2,
            "object": object_length,
        },
        action_dim=7,
        milestones=milestones,
        make=lambda engine: _make(name, engine),
        engines=(EXACT, ROBOSUITE),
        expert=f"science.robots.experts:{expert}",
        instruction=instruction,
        cameras=("agentview", "robot0_eye_in_hand"),
    )


def _tasks() -> dict[str, Task]:
    three = (*_STACK_MILESTONES, *(f"{milestone}_c" for milestone in _STACK_MILESTONES))
    lift, stack = "lift the red cube", "stack the red cube on the green cube"
    stack_three = f"{stack}, then the blue cube on the red cube"
    tasks = [
        _task("Lift", 200, 10, ("reach", "grasp", "lift"), "LiftExpert", lift),
        _task("Stack_D0", 400, 23, _STACK_MILESTONES, "StackExpert", stack),
        _task("Stack_D1", 400, 23, _STACK_MILESTONES, "StackExpert", stack),
        _task("StackThree_D0", 400, 36, three, "StackThreeExpert", stack_three),
        _task("StackThree_D1", 400, 36, three, "StackThreeExpert", stack_three),
    ]
    return {task.name: task for task in tasks}


def _unavailable() -> str | None:
    missing = []
    for package in ("mujoco", "robosuite"):
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return (
            f"the suite {NAME!r} needs {' and '.join(missing)}, which this interpreter has not; "
            f"install robosuite {ROBOSUITE_VERSION} as the Makefile does"
        )
    found = version("robosuite")
    if found != ROBOSUITE_VERSION:
        return (
            f"the suite {NAME!r} found robosuite {found}, expected {ROBOSUITE_VERSION} (others were not verified to "
            f"give an episode by its seed); install robosuite=={ROBOSUITE_VERSION} with --no-deps"
        )
    return None


def _provenance() -> Mapping[str, str]:
    return {package: version(package) for package in ("mujoco", "robosuite", "numpy")}


SUITE = Suite(name=NAME, tasks=_tasks(), environment="default", unavailable=_unavailable, provenance=_provenance)
