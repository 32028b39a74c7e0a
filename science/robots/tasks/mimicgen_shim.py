"""The two names of robosuite 1.4 that MimicGen uses and robosuite 1.5 has dropped. Heavy import: workers only.

`install` is called for robosuite 1.5 only, and only when a task of the `mimicgen` suite is made. Nothing of robosuite
is changed; a module and a property are added.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
from robosuite.robots.fixed_base_robot import FixedBaseRobot

from science.robots.tasks.base import TaskError

MODULE = "robosuite.environments.manipulation.single_arm_env"


class SingleArmEnv(ManipulationEnv):
    """What robosuite 1.4 called an environment with one arm; its `mount_types` are 1.5's `base_types`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if "mount_types" in named:
            named["base_types"] = named.pop("mount_types")
        super().__init__(*arguments, **named)


class ArmController:
    """The arm's controller under robosuite 1.4's name of its site; everything else is the controller's own."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    @property
    def eef_name(self) -> str:
        """The site that the controller moves."""
        return str(self._controller.ref_name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)


def _controller(robot: FixedBaseRobot) -> ArmController:
    return ArmController(robot.part_controllers["right"])


def install() -> None:
    """Add `SingleArmEnv`'s module and `FixedBaseRobot.controller`; again is no harm.

    Raises
    ------
    TaskError
        Where robosuite, or somebody else, has either already: then this shim is not for it.
    """
    here = sys.modules.get(MODULE)
    if here is not None and getattr(here, "SingleArmEnv", None) is SingleArmEnv:
        return
    if here is not None or hasattr(FixedBaseRobot, "controller"):
        raise TaskError(
            f"found {MODULE} or FixedBaseRobot.controller in robosuite already, expected a robosuite 1.5 without "
            f"them: another shim is at work in this process; run MimicGen's tasks in a process of their own"
        )
    module = types.ModuleType(MODULE, "robosuite 1.4's name, for MimicGen")
    module.SingleArmEnv = SingleArmEnv  # type: ignore[attr-defined]
    sys.modules[MODULE] = module
    FixedBaseRobot.controller = property(_controller)
