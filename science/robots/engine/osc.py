"""A control step of arm and gripper, compiled: MuJoCo's C functions and operational space control in one loop.

robosuite's own compiled functions do the controller's linear algebra. Bit-equality rests on the same calls in the same
order on arrays of the same memory layout; the mass matrix is Fortran-ordered because robosuite's is. The method is
Khatib's (1987); the order of operations is that of robosuite 1.5.2's `OperationalSpaceController`.

Every compiled function of the engine is in this file, because numba's cache watches one file: edit robosuite and the
cache is stale (`self_check` finds that).

MuJoCo's functions are called without its Python bindings, so an error that MuJoCo holds fatal (its memory is exhausted)
ends the process with MuJoCo's message; it does not raise.

Heavy import (mujoco, numba, robosuite): workers only.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llvmlite.binding
import mujoco
import numpy as np
from numba import njit, types
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error
from robosuite.utils.transform_utils import quat2mat

from science.robots.engine import EngineError

_ADDRESS, _OUT = types.intp, types.CPointer(types.float64)
_mj_step1 = types.ExternalFunction("mj_step1", types.void(_ADDRESS, _ADDRESS))
_mj_step2 = types.ExternalFunction("mj_step2", types.void(_ADDRESS, _ADDRESS))
_mj_jac_site = types.ExternalFunction("mj_jacSite", types.void(_ADDRESS, _ADDRESS, _OUT, _OUT, types.int32))


def _name_mujoco_functions() -> None:
    """Tell the compiler where the functions above are: in the library that the bindings have loaded."""
    folder = Path(mujoco.__file__).parent
    found = sorted(folder.glob("libmujoco.*"))
    if len(found) != 1:
        raise EngineError(f"engine exact: found {len(found)} libraries libmujoco.* in {folder}, expected one")
    library = ctypes.CDLL(str(found[0]))
    for name in ("mj_step1", "mj_step2", "mj_jacSite"):
        llvmlite.binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


_name_mujoco_functions()

N_JOINTS = 7
N_FINGERS = 2

ARM_RECORD = np.dtype(
    [
        # what was read of the arm: the grip site's pose and velocities, its Jacobians, the joints, the inertia
        ("ref_pos", np.float64, 3),
        ("ref_ori", np.float64, (3, 3)),
        ("ref_pos_vel", np.float64, 3),
        ("ref_ori_vel", np.float64, 3),
        ("j_pos", np.float64, (3, N_JOINTS)),
        ("j_ori", np.float64, (3, N_JOINTS)),
        ("j_full", np.float64, (6, N_JOINTS)),
        ("joint_pos", np.float64, N_JOINTS),
        ("joint_vel", np.float64, N_JOINTS),
        ("mass_transposed", np.float64, (N_JOINTS, N_JOINTS)),
        # what it is to do: the goal in the base's frame, the base, the posture of the null space, the gains
        ("goal_pos", np.float64, 3),
        ("goal_ori", np.float64, (3, 3)),
        ("base_pos", np.float64, 3),
        ("base_ori", np.float64, (3, 3)),
        ("posture", np.float64, N_JOINTS),
        ("kp", np.float64, 6),
        ("kd", np.float64, 6),
        ("limits", np.float64, (N_JOINTS, 2)),
        # the answer
        ("torques", np.float64, N_JOINTS),
        # where its parts are in MuJoCo's arrays; mass_entries is -1 where the inertia has a structural zero
        ("dofs", np.int64, N_JOINTS),
        ("addresses", np.int64, N_JOINTS),
        ("actuators", np.int64, N_JOINTS),
        ("mass_entries", np.int64, (N_JOINTS, N_JOINTS)),
    ]
)
"""All that the compiled functions share, as one record, because each array that they are handed costs a conversion.

m, rad, m/s, rad/s, kg m^2, N m.
"""

FINGERS_RECORD = np.dtype(
    [
        # from the gripper's command to its goal, and from the goal to ctrl
        ("command", np.float64, N_FINGERS),
        ("command_limits", np.float64, (N_FINGERS, 2)),
        ("command_middle", np.float64, N_FINGERS),
        ("scale", np.float64, N_FINGERS),
        ("goal_middle", np.float64, N_FINGERS),
        ("goal", np.float64, N_FINGERS),
        ("ctrl_middle", np.float64, N_FINGERS),
        ("ctrl_half_width", np.float64, N_FINGERS),
        ("ctrl", np.float64, N_FINGERS),
        ("limits", np.float64, (N_FINGERS, 2)),
        # what was read of the fingers, m and m/s
        ("joint_pos", np.float64, N_FINGERS),
        ("joint_vel", np.float64, N_FINGERS),
        ("dofs", np.int64, N_FINGERS),
        ("addresses", np.int64, N_FINGERS),
        ("actuators", np.int64, N_FINGERS),
    ]
)
"""The same for the gripper."""


def new_record(kind: np.dtype) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One record of zeros ``[1]`` for the compiled functions, and a view of each of its fields."""
    records = np.zeros(1, dtype=kind)
    return records, {name: records[name][0] for name in kind.names or ()}


@njit(cache=True)
def read_arm(arms, jacp, jacr, site, site_xpos, site_xmat, qpos, qvel, qm):
    """Read into ``arms[0]`` what the controller knows of the arm after `mj_step1`.

    ``jacp``, ``jacr`` ``[3, nv]`` are the Jacobians of the grip site, whose index is ``site``; ``qm`` is the sparse
    inertia that MuJoCo computes.
    """
    arm = arms[0]
    arm.ref_pos[:] = site_xpos[site]
    arm.ref_ori[:, :] = site_xmat[site].reshape(3, 3)
    arm.ref_pos_vel[:] = np.dot(jacp, qvel)
    arm.ref_ori_vel[:] = np.dot(jacr, qvel)
    for j in range(N_JOINTS):
        dof = arm.dofs[j]
        for i in range(3):
            arm.j_pos[i, j] = jacp[i, dof]
            arm.j_ori[i, j] = jacr[i, dof]
            arm.j_full[i, j] = jacp[i, dof]
            arm.j_full[3 + i, j] = jacr[i, dof]
        arm.joint_pos[j] = qpos[arm.addresses[j]]
        arm.joint_vel[j] = qvel[dof]
        for k in range(N_JOINTS):
            entry = arm.mass_entries[j, k]
            arm.mass_transposed[k, j] = qm[entry] if entry >= 0 else 0.0


@njit(cache=True)
def aim_arm(arms, shift, turn):
    """Set the goal of ``arms[0]``: ``shift`` [3] m and ``turn`` (quaternion xyzw) from where the arm is."""
    arm = arms[0]
    to_base = np.zeros((4, 4))
    to_base[:3, :3] = arm.base_ori.T
    to_base[:3, 3] = -np.dot(np.ascontiguousarray(to_base[:3, :3]), arm.base_pos)
    to_base[3, 3] = 1.0
    place = np.eye(4)
    place[:3, 3] = arm.ref_pos
    pose = place.copy()
    pose[:3, :3] = arm.ref_ori
    arm.goal_pos[:] = np.dot(to_base, place)[:3, 3] + shift
    arm.goal_ori[:, :] = np.dot(quat2mat(turn), np.ascontiguousarray(np.dot(to_base, pose)[:3, :3]))


@njit(cache=True)
def drive_arm(arms, bias, ctrl):
    """Torques of ``arms[0]`` towards its goal; within the actuators' limits also in ``ctrl`` [nu].

    ``bias`` [nv] is gravity and Coriolis. The base does not move.
    """
    arm = arms[0]
    base_ori = arm.base_ori
    position_error = (arm.base_pos + np.dot(base_ori, arm.goal_pos)) - arm.ref_pos
    rotation_error = orientation_error(np.dot(base_ori, arm.goal_ori), arm.ref_ori)
    force = position_error * arm.kp[0:3] + (-arm.ref_pos_vel) * arm.kd[0:3]
    torque = rotation_error * arm.kp[3:6] + (-arm.ref_ori_vel) * arm.kd[3:6]

    mass = arm.mass_transposed.T
    _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass, arm.j_full, arm.j_pos, arm.j_ori)
    wrench = np.empty(6)
    wrench[0:3] = np.dot(lambda_pos, force)
    wrench[3:6] = np.dot(lambda_ori, torque)
    task = np.dot(arm.j_full.T, wrench)
    posture = nullspace_torques(mass, nullspace, arm.posture, arm.joint_pos, arm.joint_vel)
    for j in range(N_JOINTS):
        applied = task[j] + bias[arm.dofs[j]] + posture[j]
        arm.torques[j] = applied
        low, high = arm.limits[j, 0], arm.limits[j, 1]
        ctrl[arm.actuators[j]] = applied if np.isnan(applied) else min(max(applied, low), high)


@njit(cache=True)
def drive_fingers(fingers, ctrl):
    """Turn the command of ``fingers[0]`` into its goal and, within the actuators' limits, into ``ctrl`` [nu]."""
    hand = fingers[0]
    for i in range(N_FINGERS):
        command = min(max(hand.command[i], hand.command_limits[i, 0]), hand.command_limits[i, 1])
        hand.goal[i] = (command - hand.command_middle[i]) * hand.scale[i] + hand.goal_middle[i]
        hand.ctrl[i] = hand.ctrl_middle[i] + hand.ctrl_half_width[i] * hand.goal[i]
        ctrl[hand.actuators[i]] = min(max(hand.ctrl[i], hand.limits[i, 0]), hand.limits[i, 1])


@njit(cache=True)
def run_substeps(
    model, data, n_substeps, new_goal, keep_reading, shift, turn, arms, fingers, jacp, jacr, site, base,
    site_xpos, site_xmat, qpos, qvel, qm, bias, ctrl,
):  # fmt: skip
    """``n_substeps`` of physics under control.

    ``model`` and ``data`` are addresses. ``new_goal``: the first substep sets the goal by ``shift`` and ``turn`` (see
    `aim_arm`); with ``keep_reading`` it takes the arm as ``arms[0]`` has it, unread. All of ctrl is written in every
    substep, because MuJoCo clears it when it resets a simulation that has diverged.
    """
    arm, hand = arms[0], fingers[0]
    for substep in range(n_substeps):
        _mj_step1(model, data)
        arm.base_pos[:] = site_xpos[base]
        arm.base_ori[:, :] = site_xmat[base].reshape(3, 3)
        if substep or not (new_goal and keep_reading):
            _mj_jac_site(model, data, jacp.ctypes, jacr.ctypes, site)
            read_arm(arms, jacp, jacr, site, site_xpos, site_xmat, qpos, qvel, qm)
        if new_goal and not substep:
            aim_arm(arms, shift, turn)
        drive_arm(arms, bias, ctrl)
        drive_fingers(fingers, ctrl)
        for i in range(N_FINGERS):
            hand.joint_pos[i], hand.joint_vel[i] = qpos[hand.addresses[i]], qvel[hand.dofs[i]]
        _mj_step2(model, data)
