"""The arm's controller of one episode, bound to the simulation's memory. Heavy import (numba, robosuite): workers only.

`Arm` takes over from robosuite's own controller object at a control step's start and hands back at its end, so
robosuite can go on from any state that the engine left, and the engine from any that robosuite left.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import robosuite.utils.transform_utils as T

from science.robots.engine.fingers import Fingers
from science.robots.engine.osc import ARM_RECORD, new_record, run_substeps
from science.robots.engine.supported import base_site

_FILLED = {
    "ref_pos": "ref_pos",
    "ref_ori_mat": "ref_ori",
    "ref_pos_vel": "ref_pos_vel",
    "ref_ori_vel": "ref_ori_vel",
    "J_pos": "j_pos",
    "J_ori": "j_ori",
    "J_full": "j_full",
}
"""The controller's arrays that robosuite fills in place, and their names in `ARM_RECORD`."""

_REPLACED = {
    "joint_pos": "joint_pos",
    "joint_vel": "joint_vel",
    "torques": "torques",
    "goal_pos": "goal_pos",
    "goal_ori": "goal_ori",
    "origin_pos": "base_pos",
    "origin_ori": "base_ori",
}
"""Those that robosuite replaces by new arrays; the mass matrix, too."""

_STILL = np.zeros(3), np.zeros(4)
"""Shift and turn where there is no new goal."""


class Arm:
    """Addresses and views of MuJoCo's arrays, and the record that the compiled functions share.

    ``controller`` is robosuite's `OperationalSpaceController`, ``actuators`` the arm's actuator indices.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, controller: Any, actuators: list[int], fingers: Fingers
    ) -> None:
        self._controller = controller
        self._kept_alive = model, data
        records, fields = new_record(ARM_RECORD)
        fields["dofs"][:], fields["addresses"][:] = controller.qvel_index, controller.qpos_index
        fields["actuators"][:], fields["limits"][:] = actuators, model.actuator_ctrlrange[actuators]
        fields["mass_entries"][:] = _mass_entries(model, fields["dofs"])
        self._mass, self._fields = fields["mass_transposed"].T, fields
        self._filled = [(name, fields[field]) for name, field in _FILLED.items()]
        self._replaced = [(name, fields[field]) for name, field in _REPLACED.items()]
        jacobians = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        sites = model.site(controller.ref_name).id, model.site(base_site(controller)).id
        self._addresses = model._address, data._address
        self._arrays = (
            records, fingers.records, *jacobians, *sites, data.site_xpos, data.site_xmat, data.qpos, data.qvel, data.qM,
            data.qfrc_bias, data.ctrl,
        )  # fmt: skip

    @property
    def torques(self) -> np.ndarray:
        """The torques computed last ``[7]`` N m, before they are limited."""
        return self._fields["torques"]

    def run_to(self, action: np.ndarray, n_substeps: int) -> None:
        """Set a new goal from ``action`` ``[6]`` and run the first substeps towards it."""
        controller, fields = self._controller, self._fields
        fields["kp"][:], fields["kd"][:] = controller.kp, controller.kd
        fields["posture"][:] = controller.initial_joint
        keep = not controller.new_update
        if keep:
            self._take()
        scaled = controller.scale_action(action)
        goal = scaled[:3], T.axisangle2quat(scaled[3:])
        run_substeps(*self._addresses, n_substeps, True, keep, *goal, *self._arrays)

    def run(self, n_substeps: int) -> None:
        """Run further substeps towards the same goal."""
        run_substeps(*self._addresses, n_substeps, False, False, *_STILL, *self._arrays)

    def _take(self) -> None:
        """What robosuite's controller has read earlier: after a reset its first goal and torques stand on that."""
        for name, mine in self._filled:
            mine[...] = getattr(self._controller, name)
        self._fields["joint_pos"][:] = self._controller.joint_pos
        self._fields["joint_vel"][:] = self._controller.joint_vel
        self._mass[...] = self._controller.mass_matrix

    def leave(self) -> None:
        """Hand what was read and computed last to robosuite's controller."""
        controller = self._controller
        for name, mine in self._filled:
            getattr(controller, name)[...] = mine
        for name, mine in self._replaced:
            setattr(controller, name, mine)
        controller.mass_matrix = self._mass
        controller.new_update = True


def _mass_entries(model: mujoco.MjModel, dofs: np.ndarray) -> np.ndarray:
    """Where the inertia between ``dofs`` ``[n]`` is in MuJoCo's sparse ``qM`` ``[n, n]``; -1 for structural zeros."""
    entries = np.full((len(dofs), len(dofs)), -1)
    rows = {int(dof): row for row, dof in enumerate(dofs)}
    for dof, row in rows.items():
        entry, other = int(model.dof_Madr[dof]), dof
        while other >= 0:
            if other in rows:
                entries[row, rows[other]] = entries[rows[other], row] = entry
            entry, other = entry + 1, int(model.dof_parentid[other])
    return entries
