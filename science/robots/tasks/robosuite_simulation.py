"""What every running robosuite task shares: state, observation, objects and their displacement. Heavy: workers only.

A suite's own class adds how a seed determines a reset, which milestones there are, and which object is to be moved.

What a step returns is robosuite's observation: read before the last 2 ms of the step are integrated. `observe`
computes the observation of the present state afresh, so the two differ by one physics step while something moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mujoco
import numpy as np
import robosuite

from science.robots.tasks.base import Observation, Simulation, Task, TaskError

REACH_M = 0.03
"""Gripper site to the object's centre: nearer than this, the object is between the fingers."""
LIFTED_M = 0.04
"""How far above its resting height an object is lifted."""
ALIGNED_M = 0.02
"""Horizontal distance of the centres below which a released cube comes to rest on the one below."""

PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
ROBOMIMIC_ROBOSUITE_TYPE = 1
"""robomimic's `EnvType.ROBOSUITE_TYPE`."""


class RobosuiteSimulation(Simulation):
    """A Panda before a table, OSC_POSE deltas in the robot's base frame at 20 Hz, no cameras."""

    _sensing_passes = 1
    """How often all sensors are read before each has seen the others' present values."""

    def __init__(
        self, task: Task, engine: str, environment: str, arguments: Mapping[str, Any], *, hard_reset: bool
    ) -> None:
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
        self._arguments: dict[str, Any] = {
            "robots": "Panda",
            "controller_configs": self._controller_config(),
            "use_camera_obs": False,
            "control_freq": task.control_hz,
            "ignore_done": True,
            **arguments,
        }
        self._env: Any = robosuite.make(
            environment, has_renderer=False, has_offscreen_renderer=False, hard_reset=hard_reset, **self._arguments
        )
        self._pushed = False
        self._look_up()

    def _controller_config(self) -> Mapping[str, Any]:
        """OSC_POSE as robosuite's defaults for a Panda have it, as JSON types."""
        return robosuite.load_composite_controller_config(robot="Panda")

    def _gripper(self) -> Any:
        """robosuite's model of the gripper."""
        return self._env.robots[0].gripper["right"]

    def _controllers(self) -> Iterable[Any]:
        """Every controller of the robot."""
        return self._env.robots[0].composite_controller.part_controllers.values()

    def _things(self) -> Iterable[Any]:
        """robosuite's models of the task's objects."""
        return self._env.model.mujoco_objects

    def _look_up(self) -> None:
        """Ids in the present model; anew after a reset that loads the model."""
        model = self.mujoco_model
        self._bodies: dict[str, int] = {}
        self._joints: dict[str, int] = {}
        self._geoms: dict[str, np.ndarray] = {}
        for thing in self._things():
            self._geoms[thing.name] = np.array([model.geom(name).id for name in thing.contact_geoms], dtype=int)
            joint = model.joint(thing.joints[0]).id if thing.joints else None
            if joint is not None and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
                self._bodies[thing.name] = model.body(thing.root_body).id
                self._joints[thing.name] = joint
        gripper = self._gripper()
        self._pads = [
            np.array([model.geom(name).id for name in gripper.important_geoms[pad]])
            for pad in ("left_fingerpad", "right_fingerpad")
        ]
        self._grip_site = model.site(gripper.important_sites["grip_site"]).id
        self._scratch: mujoco.MjData | None = None

    def step(self, action: np.ndarray) -> Observation:
        observation = self._advance(np.asarray(action, dtype=np.float64))
        if self._pushed:
            self.mujoco_data.xfrc_applied[:] = 0
            self._pushed = False
        return self._kept(observation)

    def _advance(self, action: np.ndarray) -> Mapping[str, np.ndarray]:
        """One control step; returns robosuite's observation."""
        return self._env.step(action)[0]

    def _kept(self, observation: Mapping[str, np.ndarray]) -> Observation:
        kept = {key: np.array(observation[key], dtype=np.float64) for key in PROPRIOCEPTION}
        kept["object"] = self._object_state(observation)
        return kept

    def _object_state(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The key `object`, from robosuite's observation."""
        return np.array(observation["object-state"], dtype=np.float64)

    def observe(self) -> Observation:
        """The observation of the present state; neither the physics nor robosuite's sampling clock notices."""
        env, live = self._env, self._env.sim.data._data
        if self._scratch is None:
            self._scratch = mujoco.MjData(self.mujoco_model)
        scratch = self._scratch
        scratch.qpos[:], scratch.qvel[:] = live.qpos, live.qvel
        mujoco.mj_kinematics(self.mujoco_model, scratch)
        cache: dict[str, np.ndarray] = {}
        seen: dict[str, np.ndarray] = {}
        env.sim.data._data = scratch
        try:
            for _ in range(self._sensing_passes):
                for name, observable in env._observables.items():
                    if name in PROPRIOCEPTION or observable.modality == "object":
                        seen[name] = cache[name] = np.array(observable._sensor(cache))
        finally:
            env.sim.data._data = live
        things = [np.atleast_1d(seen[name]).ravel() for name in seen if name not in PROPRIOCEPTION]
        return self._kept(seen | {"object-state": np.concatenate(things)})

    def success(self) -> bool:
        return bool(self._env._check_success())

    def _touching(self, geoms: np.ndarray, others: np.ndarray) -> bool:
        """Whether any contact is between the two groups of geom ids."""
        contact = self.mujoco_data.contact
        first, second = contact.geom1, contact.geom2
        forth = np.isin(first, geoms) & np.isin(second, others)
        back = np.isin(second, geoms) & np.isin(first, others)
        return bool((forth | back).any())

    def _grasped(self, name: str) -> bool:
        return all(self._touching(pad, self._geoms[name]) for pad in self._pads)

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
        gripper = self._gripper()
        gripper.current_action = np.zeros(gripper.dof)
        for controller in self._controllers():
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
