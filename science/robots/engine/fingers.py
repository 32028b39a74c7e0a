"""The gripper's part of a control step: a command that is integrated once a step.

Heavy import (mujoco, numba, robosuite): workers only.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from science.robots.engine.osc import FINGERS_RECORD, new_record


class Fingers:
    """The record that the compiled functions share; the integration of the action is the gripper's own method.

    ``gripper`` is robosuite's `PandaGripper`, ``controller`` its `SimpleGripController`, ``actuators`` its actuator
    indices.
    """

    def __init__(self, model: mujoco.MjModel, gripper: Any, controller: Any, actuators: list[int]) -> None:
        self._gripper, self._controller = gripper, controller
        self.records, fields = new_record(FINGERS_RECORD)
        controller.scale_action(np.zeros(len(actuators)))  # robosuite computes its scale at the first use
        fields["command_limits"][:] = np.stack([controller.input_min, controller.input_max], axis=-1)
        fields["command_middle"][:] = controller.action_input_transform
        fields["scale"][:] = controller.action_scale
        fields["goal_middle"][:] = controller.action_output_transform
        fields["ctrl_middle"][:] = 0.5 * (controller.actuator_max + controller.actuator_min)
        fields["ctrl_half_width"][:] = 0.5 * (controller.actuator_max - controller.actuator_min)
        fields["limits"][:] = model.actuator_ctrlrange[actuators]
        fields["actuators"][:] = actuators
        fields["dofs"][:], fields["addresses"][:] = controller.qvel_index, controller.qpos_index
        self._command, self._joints = fields["command"], (fields["joint_pos"], fields["joint_vel"])
        self._goal, self._ctrl = fields["goal"], fields["ctrl"]

    def command(self, action: np.ndarray) -> None:
        """Integrate ``action`` ``[1]``, of which the sign counts."""
        self._command[:] = self._gripper.format_action(action)

    def leave(self) -> None:
        """Hand what was read and computed last to robosuite's controller."""
        controller = self._controller
        controller.joint_pos, controller.joint_vel = self._joints
        controller.goal_qvel, controller.vels = self._goal, self._ctrl
        controller.new_update = True
