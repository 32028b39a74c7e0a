"""Stands in for MimicGen where it may not be had: one environment of our own on robosuite's public API.

MimicGen's licence forbids shipping it, so `make test` cannot run it (`make test-mimicgen` does). This environment has
what made MimicGen hard to repeat, and nothing else of it: it builds on robosuite 1.4's `SingleArmEnv`, draws from
NumPy's and Python's global generators while its model is loaded, makes its samplers anew with the model, moves a
fixture in the compiled model only, and reads poses relative to the gripper before the poses themselves.
"""

import random

import numpy as np
from robosuite.environments.manipulation.single_arm_env import SingleArmEnv
from robosuite.models.arenas import TableArena
from robosuite.models.objects import BoxObject
from robosuite.models.tasks import ManipulationTask
from robosuite.utils.observables import Observable, sensor
from robosuite.utils.placement_samplers import SequentialCompositeSampler, UniformRandomSampler

TABLE_TOP_M = np.array([0.0, 0.0, 0.8])


class Threading_D0(SingleArmEnv):
    """A needle that is a box, and a tripod that is a box without a joint."""

    def __init__(self, **kwargs):
        super().__init__(mount_types="default", initialization_noise="default", **kwargs)

    def reward(self, action=None):
        return float(self._check_success())

    def _check_success(self):
        return bool(self.sim.data.body_xpos[self.bodies["needle"]][2] > 1.2)

    def _load_model(self):
        super()._load_model()
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](0.8))
        arena = TableArena(table_full_size=(0.8, 0.8, 0.05), table_offset=TABLE_TOP_M)
        arena.set_origin([0, 0, 0])
        size = [0.02, 0.02, float(np.random.uniform(0.02, 0.03))]
        self.needle = BoxObject(name="needle_obj", size=size, rgba=[1, 0, 0, 1], density=random.choice([100, 200]))
        self.tripod = BoxObject(name="tripod_obj", size=[0.03, 0.03, 0.03], rgba=[0, 0, 1, 1], joints=None)
        self.placement_initializer = SequentialCompositeSampler(name="ObjectSampler")
        for thing, x_range in ((self.needle, (-0.2, -0.1)), (self.tripod, (0.1, 0.2))):
            self.placement_initializer.append_sampler(
                UniformRandomSampler(
                    name=f"{thing.name}_sampler",
                    mujoco_objects=thing,
                    x_range=x_range,
                    y_range=(-0.1, 0.1),
                    rotation=None,
                    reference_pos=TABLE_TOP_M,
                    ensure_object_boundary_in_range=False,
                )
            )
        things = [self.needle, self.tripod]
        self.model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=things)

    def _setup_references(self):
        super()._setup_references()
        names = {"needle": self.needle.root_body, "tripod": self.tripod.root_body}
        self.bodies = {name: self.sim.model.body_name2id(body) for name, body in names.items()}

    def _reset_internal(self):
        super()._reset_internal()
        for position, quaternion, thing in self.placement_initializer.sample().values():
            if thing is self.tripod:
                self.sim.model.body_pos[self.bodies["tripod"]] = position
                self.sim.model.body_quat[self.bodies["tripod"]] = quaternion
            else:
                self.sim.data.set_joint_qpos(thing.joints[0], np.concatenate([position, quaternion]))

    def _setup_observables(self):
        observables = super()._setup_observables()
        for thing in ("needle", "tripod"):
            for name, read in self._sensors(thing).items():
                observables[name] = Observable(name=name, sensor=read, sampling_rate=self.control_freq)
        return observables

    def _sensors(self, thing):
        @sensor(modality="object")
        def to_gripper(cache):
            here = cache.get(f"{thing}_pos")
            return np.zeros(3) if here is None else here - cache["robot0_eef_pos"]

        @sensor(modality="object")
        def to_gripper_quat(cache):
            return cache.get(f"{thing}_quat", np.zeros(4))

        @sensor(modality="object")
        def position(cache):
            return np.array(self.sim.data.body_xpos[self.bodies[thing]])

        @sensor(modality="object")
        def quaternion(cache):
            return np.array(self.sim.data.body_xquat[self.bodies[thing]])

        return {
            f"{thing}_to_robot0_eef_pos": to_gripper,
            f"{thing}_to_robot0_eef_quat": to_gripper_quat,
            f"{thing}_pos": position,
            f"{thing}_quat": quaternion,
        }


class Threading_D1(Threading_D0):
    """An observable more than the suite knows of."""

    def _sensors(self, thing):
        @sensor(modality="object")
        def angle(cache):
            return np.zeros(1)

        return super()._sensors(thing) | {f"{thing}_angle": angle}


class Threading_D2(Threading_D0):
    """Cannot be built."""

    def _load_model(self):
        raise AttributeError("'dict' object has no attribute 'grip'")
