"""Whether the compiled controller equals robosuite's on this machine, bit for bit. Heavy import: workers only.

numpy, which robosuite's Python uses, and numba bring a BLAS each. They agree on the processors that were tried; on one
where they do not, or where numba's cache holds another robosuite, the engine must refuse.
"""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
from robosuite.utils.binding_utils import MjSim

from science.robots.engine import EngineError
from science.robots.engine.arm import Arm
from science.robots.engine.fingers import Fingers
from science.robots.engine.supported import ARM, GRIPPER, base_site

N_STATES = 32


def require_equal_torques(env: Any) -> None:
    """Compare the arm's torques with robosuite's own controller in random states of a scratch simulation.

    Raises
    ------
    EngineError
        If any bit differs.
    """
    robot = env.robots[0]
    parts, actuators = robot.composite_controller.part_controllers, robot._ref_actuators_indexes_dict
    sim = MjSim(env.sim.model._model)
    controller = _clone(parts[ARM], sim)
    fingers = Fingers(sim.model._model, robot.gripper[ARM], copy.copy(parts[GRIPPER]), actuators[GRIPPER])
    arm = Arm(sim.model._model, sim.data._data, controller, actuators[ARM], fingers)
    rng = np.random.default_rng(0)
    deviations = [deviation for _ in range(N_STATES) for deviation in _deviations(sim, controller, arm, rng)]
    unequal = [deviation for deviation in deviations if deviation != 0]
    if unequal:
        raise EngineError(
            f"engine exact: its torques differ from robosuite's in {len(unequal)} of {len(deviations)} states, by up "
            f"to {max(unequal):.1e} N m, on this machine: numpy's and numba's BLAS disagree on this processor, or "
            f"numba's cache is stale (delete science/robots/engine/__pycache__); use robosuite"
        )


def _clone(controller: Any, sim: MjSim) -> Any:
    """A controller of ``sim`` with the settings of ``controller`` and arrays of its own."""
    clone = copy.copy(controller)
    for name in ("ref_pos", "ref_ori_mat", "ref_pos_vel", "ref_ori_vel", "J_pos", "J_ori", "J_full"):
        setattr(clone, name, np.array(getattr(controller, name)))
    clone.sim = sim
    return clone


def _deviations(sim: MjSim, controller: Any, arm: Arm, rng: np.random.Generator) -> tuple[float, float]:
    """Largest difference of torques, N m, under a random goal in a random state, and one substep later."""
    model, data = sim.model._model, sim.data._data
    mujoco.mj_resetData(model, data)
    low, high = model.jnt_range[controller.joint_index].T
    data.qpos[controller.qpos_index] = rng.uniform(low, high)
    data.qvel[controller.qvel_index] = rng.normal(size=len(low))
    action = rng.uniform(-1, 1, 6)

    _read(sim, controller)
    controller.set_goal(action)
    theirs = np.array(controller.run_controller())
    goal = controller.goal_pos, controller.goal_ori
    arm.run_to(action, 1)
    first = _largest(arm.torques - theirs)

    _read(sim, controller)
    controller.goal_pos, controller.goal_ori = goal
    theirs = np.array(controller.run_controller())
    arm.run(1)
    return first, _largest(arm.torques - theirs)


def _read(sim: MjSim, controller: Any) -> None:
    """Do before a controller runs what robosuite does."""
    mujoco.mj_step1(sim.model._model, sim.data._data)
    base = sim.data._data.site(base_site(controller))
    controller.update_origin(np.array(base.xpos), np.array(base.xmat.reshape(3, 3)))
    controller.new_update = True


def _largest(differences: np.ndarray) -> float:
    """The largest magnitude; infinity for NaN."""
    return float(np.nan_to_num(np.abs(differences), nan=np.inf).max())
