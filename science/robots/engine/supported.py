"""What `ExactEngine` supports, asked of a robosuite environment; everything else is refused by name.

Heavy import (robosuite): workers only.
"""

from __future__ import annotations

from typing import Any

import mujoco
import robosuite
from numba.core.dispatcher import Dispatcher
from robosuite.controllers.composite.composite_controller import CompositeController
from robosuite.controllers.parts.arm.osc import OperationalSpaceController
from robosuite.controllers.parts.gripper.simple_grip import SimpleGripController
from robosuite.environments.base import MujocoEnv
from robosuite.environments.robot_env import RobotEnv
from robosuite.models.grippers.panda_gripper import PandaGripper
from robosuite.robots.fixed_base_robot import FixedBaseRobot
from robosuite.utils import control_utils
from robosuite.utils.binding_utils import MjSim

from science.robots.engine import EngineError
from science.robots.engine.observed import OBJECT_MODALITY, PROPRIOCEPTION
from science.robots.engine.sampling_clock import SamplingClock

ROBOSUITE_VERSION = "1.5.2"
CONTROL_HZ = 20
TIMESTEP_S = 0.002
ARM, GRIPPER = "right", "right_gripper"

_STEP = {
    "step": MujocoEnv,
    "_pre_action": RobotEnv,
    "_post_action": MujocoEnv,
    "_update_observables": MujocoEnv,
    "_get_observations": MujocoEnv,
}
"""Methods of robosuite's control step that an environment must not have changed, and whose they are."""


def require_supported(env: Any) -> None:
    """Refuse an environment on which the engine's step could differ from ``env.step``.

    Raises
    ------
    EngineError
        Naming what was found and what was expected.
    """
    _expect("robosuite's version", robosuite.__version__, ROBOSUITE_VERSION)
    _expect("robosuite's own numba (macros.ENABLE_NUMBA)", isinstance(control_utils.opspace_matrices, Dispatcher), True)
    if not isinstance(env, RobotEnv):
        raise EngineError(f"engine exact: found an environment of type {_name(env)}, expected a robosuite RobotEnv")
    for method, owner in _STEP.items():
        changed = getattr(type(env), method) is not getattr(owner, method) or method in vars(env)
        _expect(f"{_name(env)}.{method}", "changed" if changed else "robosuite's own", "robosuite's own")
    _expect("control_freq", env.control_freq, CONTROL_HZ)
    _expect("model_timestep", env.model_timestep, TIMESTEP_S)
    _expect("lite_physics", env.lite_physics, True)
    _expect("ignore_done", env.ignore_done, True)
    _expect("has_renderer", env.has_renderer, False)
    _expect("use_camera_obs", env.use_camera_obs, False)
    _expect("robots", [robot.name for robot in env.robots], ["Panda"])
    _expect("the robot's type", type(env.robots[0]).__name__, FixedBaseRobot.__name__)
    require_supported_episode(env)


def require_supported_episode(env: Any) -> None:
    """Refuse what a reset made anew: the simulation, the controllers, the gripper and the observables.

    Raises
    ------
    EngineError
        Naming what was found and what was expected.
    """
    _type("env.sim", env.sim, MjSim)
    _expect("the model's time step", env.sim.model._model.opt.timestep, TIMESTEP_S)
    robot = env.robots[0]
    composite = robot.composite_controller
    _type("the composite controller", composite, CompositeController)
    _expect("the controlled parts", list(composite.part_controllers), [ARM, GRIPPER])
    _expect("enabled parts", [robot.enabled(part) for part in (ARM, GRIPPER)], [True, True])
    _require_arm_controller(composite.part_controllers[ARM])
    _require_gripper(robot.gripper[ARM], composite.part_controllers[GRIPPER])
    _require_fixed_base(env.sim.model._model, composite.part_controllers[ARM])
    _expect("a viewer", env.viewer, None)
    _require_observables(env)


def base_site(controller: Any) -> str:
    """The site that is the arm's frame of reference."""
    return f"{controller.naming_prefix}{controller.part_name}_center"


def _require_arm_controller(controller: Any) -> None:
    _type("the arm's controller", controller, OperationalSpaceController)
    expected = {
        "name": "OSC_POSE",
        "input_type": "delta",
        "input_ref_frame": "base",
        "impedance_mode": "fixed",
        "uncoupling": True,
        "interpolator_pos": None,
        "interpolator_ori": None,
        "position_limits": None,
        "orientation_limits": None,
        "lite_physics": True,
        "num_ref_sites": 1,
        "joint_dim": 7,
        "_goal_update_mode": "achieved",
    }
    for attribute, value in expected.items():
        _expect(f"the arm controller's {attribute}", getattr(controller, attribute), value)


def _require_gripper(gripper: Any, controller: Any) -> None:
    _type("the gripper", gripper, PandaGripper)
    _type("the gripper's controller", controller, SimpleGripController)
    _expect("the gripper controller's interpolator", controller.interpolator, None)


def _require_observables(env: Any) -> None:
    """Those that a step returns, all on one sampling clock."""
    active = {name for name, seen in env._observables.items() if seen.is_enabled() and seen.is_active()}
    _expect("observables that are not active", sorted(set(PROPRIOCEPTION) - active), [])
    objects = [name for name in active if env._observables[name].modality == OBJECT_MODALITY]
    if not objects:
        raise EngineError("engine exact: found no observables of objects, expected use_object_obs=True; use robosuite")
    SamplingClock(env)


def _require_fixed_base(model: mujoco.MjModel, controller: Any) -> None:
    body = model.site(base_site(controller)).bodyid[0]
    welded_to = model.body_weldid[body]
    _expect("the body that the arm's base is welded to", model.body(int(welded_to)).name, "world")


def _type(what: str, found: object, expected: type) -> None:
    if type(found) is not expected:
        raise EngineError(f"engine exact: {what} is a {_name(found)}, expected {expected.__name__}; use robosuite")


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise EngineError(f"engine exact: found {what} = {found!r}, expected {expected!r}; use robosuite")


def _name(thing: object) -> str:
    return type(thing).__name__
