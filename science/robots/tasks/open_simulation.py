"""A running robosuite task as a `Simulation`. Only processes that simulate import this module: it imports robosuite.

An episode is its seed: the generator of the robot's and the objects' placement is made anew from the seed before every
reset, every reset is of the same kind, and nothing else that robosuite keeps outlives a reset. Lift draws the cube's
size when its model is loaded, so it loads the model at every reset (150 ms); the others reset the loaded model.

What a step returns is robosuite's observation: read before the last 2 ms of the step are integrated. `observe`
computes the observation of the present state afresh, so the two differ by one physics step while something moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import robosuite
from robosuite.environments.base import MujocoEnv

from science.robots.tasks import open_environments  # noqa: F401  registers its environments with robosuite
from science.robots.tasks.base import EXACT, Observation, Simulation, Task, TaskError

TABLE_TOP_Z_M = 0.8
REACH_M = 0.03
"""Gripper site to the object's centre: nearer than this, the object is between the fingers."""
LIFTED_M = 0.04
"""How far above its resting height a cube is lifted."""
ALIGNED_M = 0.02
"""Horizontal distance of the centres below which a released cube comes to rest on the one below."""
CUBE_HALF_EXTENT_M = 0.02

PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
ROBOMIMIC_ROBOSUITE_TYPE = 1
"""robomimic's `EnvType.ROBOSUITE_TYPE`."""


@dataclass(frozen=True)
class Placement:
    """One object to be moved: onto another one, or (Lift) only up.

    ``height_m`` is how far above the table top the object's centre must be for success.
    """

    moved: str
    onto: str | None
    height_m: float


PLACEMENTS: Mapping[str, tuple[Placement, ...]] = {
    "Lift": (Placement("cube", None, 0.04),),
    "Stack": (Placement("cubeA", "cubeB", 0.04),),
    "StackThree": (Placement("cubeA", "cubeB", 0.04), Placement("cubeC", "cubeA", 0.08)),
}
"""By the task's name without its reset distribution."""


class RobosuiteSimulation(Simulation):
    """A Panda before a table, OSC_POSE deltas in the robot's base frame at 20 Hz, no cameras."""

    def __init__(self, task: Task, environment: str, arguments: Mapping[str, Any], engine: str) -> None:
        """Build the environment ``environment`` (robosuite's name) with ``arguments`` beside the common ones.

        Raises
        ------
        TaskError
            For an engine that was not verified for the task.
        """
        if engine not in task.engines:
            raise TaskError(f"found engine {engine!r} for task {task.key}, expected one of {list(task.engines)}")
        self.task = task
        self.engine = engine
        self._environment = environment
        self._arguments = _common_arguments(task) | dict(arguments)
        self._env: MujocoEnv = robosuite.make(
            environment,
            has_renderer=False,
            has_offscreen_renderer=False,
            hard_reset=environment == "Lift",
            **self._arguments,
        )
        self._placements = PLACEMENTS[task.name.split("_")[0]]
        self._exact: Any = None
        if engine == EXACT:
            from science.robots.engine.exact import ExactEngine

            self._exact = ExactEngine(self._env)
        self._pushed = False
        self._look_up()

    def _look_up(self) -> None:
        """Ids in the present model; anew after a reset that loads the model."""
        env, model = self._env, self.mujoco_model
        self._bodies: dict[str, int] = {}
        self._joints: dict[str, int] = {}
        self._geoms: dict[str, np.ndarray] = {}
        for thing in env.model.mujoco_objects:
            self._bodies[thing.name] = model.body(thing.root_body).id
            self._joints[thing.name] = model.joint(thing.joints[0]).id
            self._geoms[thing.name] = np.array([model.geom(name).id for name in thing.contact_geoms])
        gripper = env.robots[0].gripper["right"]
        self._pads = [
            np.array([model.geom(name).id for name in gripper.important_geoms[pad]])
            for pad in ("left_fingerpad", "right_fingerpad")
        ]
        self._grip_site = model.site(gripper.important_sites["grip_site"]).id
        self._scratch: mujoco.MjData | None = None

    def reset(self, seed: int) -> Observation:
        env = self._env
        env.rng = np.random.default_rng(seed)
        env.placement_initializer.rng = env.rng
        observation = env.reset()
        self._pushed = False
        if env.hard_reset:
            self._look_up()
        if self._exact is not None:
            self._exact.reset()
        return self._kept(observation)

    def step(self, action: np.ndarray) -> Observation:
        action = np.asarray(action, dtype=np.float64)
        if self._exact is None:
            observation = self._env.step(action)[0]
        else:
            self._exact.step(action)
            observation = self._env._get_observations()
        if self._pushed:
            self.mujoco_data.xfrc_applied[:] = 0
            self._pushed = False
        return self._kept(observation)

    @staticmethod
    def _kept(observation: Mapping[str, np.ndarray]) -> Observation:
        kept = {key: np.array(observation[key], dtype=np.float64) for key in PROPRIOCEPTION}
        kept["object"] = np.array(observation["object-state"], dtype=np.float64)
        return kept

    def observe(self) -> Observation:
        """The observation of the present state; neither the physics nor robosuite's sampling clock notices."""
        env, live = self._env, self._env.sim.data._data
        if self._scratch is None:
            self._scratch = mujoco.MjData(self.mujoco_model)
        scratch = self._scratch
        scratch.qpos[:], scratch.qvel[:] = live.qpos, live.qvel
        mujoco.mj_kinematics(self.mujoco_model, scratch)
        cache: dict[str, np.ndarray] = {}
        env.sim.data._data = scratch
        try:
            for name, observable in env._observables.items():
                if name in PROPRIOCEPTION or observable.modality == "object":
                    cache[name] = np.array(observable._sensor(cache))
        finally:
            env.sim.data._data = live
        things = [cache[name] for name in cache if name not in PROPRIOCEPTION]
        return self._kept(cache | {"object-state": np.concatenate(things)})

    def success(self) -> bool:
        return bool(self._env._check_success())

    def milestones(self) -> tuple[bool, ...]:
        reached: list[bool] = []
        for placement in self._placements:
            reached += self._milestones(placement)
        return tuple(reached)

    def _milestones(self, placement: Placement) -> list[bool]:
        """reach, grasp, lift and, for a placement onto another object, align and release.

        reach: gripper within `REACH_M` of the object. grasp: both finger pads touch it (robosuite's definition). lift:
        `LIFTED_M` above its resting height (Lift: the height of success). align: lifted and within `ALIGNED_M` of the
        other one's vertical. release: not grasped and touching the other one.
        """
        moved = self.object_position(placement.moved)
        grasped = self._grasped(placement.moved)
        reach = bool(np.linalg.norm(self.gripper_position() - moved) < REACH_M)
        if placement.onto is None:
            return [reach, grasped, bool(moved[2] > TABLE_TOP_Z_M + placement.height_m)]
        lifted = bool(moved[2] > TABLE_TOP_Z_M + CUBE_HALF_EXTENT_M + LIFTED_M)
        apart = np.linalg.norm((moved - self.object_position(placement.onto))[:2])
        touching = self._touching(self._geoms[placement.moved], self._geoms[placement.onto])
        return [reach, grasped, lifted, bool(lifted and apart < ALIGNED_M), touching and not grasped]

    def _touching(self, geoms: np.ndarray, others: np.ndarray) -> bool:
        """Whether any contact is between the two groups of geom ids."""
        pairs = self.mujoco_data.contact.geom
        first, second = pairs[:, 0], pairs[:, 1]
        forth = np.isin(first, geoms) & np.isin(second, others)
        back = np.isin(second, geoms) & np.isin(first, others)
        return bool((forth | back).any())

    def _grasped(self, name: str) -> bool:
        return all(self._touching(pad, self._geoms[name]) for pad in self._pads)

    def _placed(self, placement: Placement) -> bool:
        high = self.object_position(placement.moved)[2] > TABLE_TOP_Z_M + placement.height_m
        if placement.onto is None or not high:
            return False
        touching = self._touching(self._geoms[placement.moved], self._geoms[placement.onto])
        return touching and not self._grasped(placement.moved)

    def target(self) -> str:
        """The first object that is not where it belongs, or the last one."""
        waiting = [placement.moved for placement in self._placements if not self._placed(placement)]
        return waiting[0] if waiting else self._placements[-1].moved

    def holding(self) -> bool:
        return self._grasped(self.target())

    def state(self) -> np.ndarray:
        data = self.mujoco_data
        return np.concatenate([[data.time], data.qpos, data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        """Go to a recorded state: a function of ``state`` alone.

        The controller begins anew there and the gripper's command at its middle (they are not part of a state), so
        steps from here are not the recorded episode's; contacts and kinematics are.

        Raises
        ------
        ValueError
            For a state of another length.
        """
        model, data = self.mujoco_model, self.mujoco_data
        found = np.asarray(state, dtype=np.float64)
        if found.shape != (1 + model.nq + model.nv,):
            raise ValueError(
                f"found a state of shape {found.shape}, expected ({1 + model.nq + model.nv},) for {self.task.key}"
            )
        mujoco.mj_resetData(model, data)
        data.time = found[0]
        data.qpos[:] = found[1 : 1 + model.nq]
        data.qvel[:] = found[1 + model.nq :]
        mujoco.mj_forward(model, data)
        robot = self._env.robots[0]
        robot.gripper["right"].current_action = np.zeros(robot.gripper["right"].dof)
        for controller in robot.composite_controller.part_controllers.values():
            controller.new_update = True
        self._pushed = False

    def objects(self) -> tuple[str, ...]:
        return tuple(self._bodies)

    def object_position(self, name: str) -> np.ndarray:
        return np.array(self.mujoco_data.xpos[self._known(name)])

    def gripper_position(self) -> np.ndarray:
        return np.array(self.mujoco_data.site_xpos[self._grip_site])

    def _known(self, name: str) -> int:
        if name not in self._bodies:
            raise TaskError(f"found object {name!r}, expected one of {sorted(self._bodies)} in task {self.task.key}")
        return self._bodies[name]

    def move_object(self, name: str, offset: np.ndarray) -> None:
        self._known(name)
        model, data = self.mujoco_model, self.mujoco_data
        joint = self._joints[name]
        qpos, qvel = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
        data.qpos[qpos : qpos + 3] += np.asarray(offset, dtype=np.float64)
        data.qvel[qvel : qvel + 6] = 0
        mujoco.mj_forward(model, data)

    def push_object(self, name: str, force: np.ndarray) -> None:
        self.mujoco_data.xfrc_applied[self._known(name), :3] = np.asarray(force, dtype=np.float64)
        self._pushed = True

    def model_xml(self) -> str:
        return str(self._env.model.get_xml())

    @property
    def mujoco_model(self) -> mujoco.MjModel:
        return self._env.sim.model._model

    @property
    def mujoco_data(self) -> mujoco.MjData:
        return self._env.sim.data._data

    def env_args(self) -> Mapping[str, object]:
        return {
            "suite": self.task.suite,
            "task": self.task.name,
            "env_name": self._environment,
            "env_version": robosuite.__version__,
            "type": ROBOMIMIC_ROBOSUITE_TYPE,
            "env_kwargs": dict(self._arguments),
        }

    def close(self) -> None:
        self._env.close()


def _common_arguments(task: Task) -> dict[str, Any]:
    """What every environment is given, as JSON types."""
    return {
        "robots": "Panda",
        "controller_configs": robosuite.load_composite_controller_config(robot="Panda"),
        "use_camera_obs": False,
        "control_freq": task.control_hz,
        "ignore_done": True,
    }
