"""robosuite environments of the `open` suite that robosuite itself has not: wider Stack resets, and StackThree.

Written on robosuite's public API (`ManipulationEnv`, `TableArena`, `BoxObject`, `UniformRandomSampler`, observables).
Importing this module imports robosuite and registers the two classes with it: only processes that simulate do so.

Cubes: A and C have half-extents 0.02 m, B has 0.025 m. The table top is at z = 0.8 m.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
from robosuite.environments.manipulation.stack import Stack
from robosuite.models.arenas import TableArena
from robosuite.models.objects import BoxObject
from robosuite.models.tasks import ManipulationTask
from robosuite.utils.mjcf_utils import CustomMaterial
from robosuite.utils.observables import Observable, sensor
from robosuite.utils.placement_samplers import UniformRandomSampler
from robosuite.utils.transform_utils import convert_quat

TABLE_SIZE_M = (0.8, 0.8, 0.05)
TABLE_FRICTION = (1.0, 5e-3, 1e-4)
TABLE_TOP_M = (0.0, 0.0, 0.8)
DROP_HEIGHT_M = 0.01
"""Cubes are placed this far above the table and settle in the first control steps, as robosuite's own are."""


HALF_EXTENT_M = {"cubeA": 0.02, "cubeB": 0.025, "cubeC": 0.02}
COLOUR = {
    "cubeA": ((1, 0, 0, 1), "WoodRed"),
    "cubeB": ((0, 1, 0, 1), "WoodGreen"),
    "cubeC": ((0, 0, 1, 1), "WoodBlue"),
}


def uniform_on_table(half_range_m: float) -> UniformRandomSampler:
    """A sampler over x, y in +-``half_range_m`` around the table's centre and any yaw, without overlaps."""
    return UniformRandomSampler(
        name="ObjectSampler",
        x_range=[-half_range_m, half_range_m],
        y_range=[-half_range_m, half_range_m],
        rotation=None,
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=np.array(TABLE_TOP_M),
        z_offset=DROP_HEIGHT_M,
    )


class OpenStack(Stack):
    """robosuite's Stack whose cubes are placed in x, y +-``half_range_m`` (robosuite's own range is 0.08)."""

    def __init__(self, *args: Any, half_range_m: float, **kwargs: Any) -> None:
        super().__init__(*args, placement_initializer=uniform_on_table(half_range_m), **kwargs)


class OpenStackThree(ManipulationEnv):
    """Cube A onto B, then C onto A.

    Success: A stands on B (not grasped, its centre above the table top + 0.04 m, touching B) and C on A (not grasped,
    its centre above the table top + 0.08 m, touching A).

    `object-state`, ``[36]``, positions in m in the world frame, quaternions xyzw: cubeA_pos 0:3, cubeA_quat 3:7,
    cubeB_pos 7:10, cubeB_quat 10:14, cubeC_pos 14:17, cubeC_quat 17:21, cubeA_to_cubeB 21:24, cubeC_to_cubeA 24:27,
    gripper_to_cubeA 27:30, gripper_to_cubeB 30:33, gripper_to_cubeC 33:36.
    """

    ON_B_HEIGHT_M = 0.04
    ON_A_HEIGHT_M = 0.08

    def __init__(self, robots: str | list[str], half_range_m: float, **kwargs: Any) -> None:
        self.half_range_m = half_range_m
        self.cubes: dict[str, BoxObject] = {}
        super().__init__(robots=robots, **{"initialization_noise": "default", **kwargs})

    def _load_model(self) -> None:
        super()._load_model()
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](TABLE_SIZE_M[0]))
        arena = TableArena(
            table_full_size=TABLE_SIZE_M, table_friction=TABLE_FRICTION, table_offset=np.array(TABLE_TOP_M)
        )
        arena.set_origin([0, 0, 0])
        self.cubes = {name: self._cube(name) for name in HALF_EXTENT_M}
        self.placement_initializer = uniform_on_table(self.half_range_m)
        self.placement_initializer.rng = self.rng
        self.placement_initializer.add_objects(list(self.cubes.values()))
        self.model = ManipulationTask(
            mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=list(self.cubes.values())
        )

    def _cube(self, name: str) -> BoxObject:
        size = [HALF_EXTENT_M[name]] * 3
        rgba, wood = COLOUR[name]
        material = CustomMaterial(
            texture=wood,
            tex_name=f"{name}_wood",
            mat_name=f"{name}_wood_mat",
            tex_attrib={"type": "cube"},
            mat_attrib={"texrepeat": "1 1", "specular": "0.4", "shininess": "0.1"},
        )
        return BoxObject(name=name, size_min=size, size_max=size, rgba=list(rgba), material=material)

    def _setup_references(self) -> None:
        super()._setup_references()
        self.cube_body = {name: self.sim.model.body_name2id(cube.root_body) for name, cube in self.cubes.items()}

    def _reset_internal(self) -> None:
        super()._reset_internal()
        if self.deterministic_reset:
            return
        for position, quaternion, cube in self.placement_initializer.sample().values():
            self.sim.data.set_joint_qpos(cube.joints[0], np.concatenate([position, quaternion]))

    def _setup_observables(self) -> OrderedDict[str, Observable]:
        observables = super()._setup_observables()
        sensors = {}
        for name in self.cubes:
            sensors[f"{name}_pos"] = self._body_position(name)
            sensors[f"{name}_quat"] = self._body_quaternion(name)
        sensors["cubeA_to_cubeB"] = _difference("cubeB_pos", "cubeA_pos")
        sensors["cubeC_to_cubeA"] = _difference("cubeA_pos", "cubeC_pos")
        for name in self.cubes:
            sensors[f"gripper_to_{name}"] = _difference(f"{name}_pos", "robot0_eef_pos")
        for name, read in sensors.items():
            observables[name] = Observable(name=name, sensor=read, sampling_rate=self.control_freq)
        return observables

    def _body_position(self, name: str) -> Any:
        @sensor(modality="object")
        def position(_cache: dict[str, np.ndarray]) -> np.ndarray:
            return np.array(self.sim.data.body_xpos[self.cube_body[name]])

        return position

    def _body_quaternion(self, name: str) -> Any:
        @sensor(modality="object")
        def quaternion(_cache: dict[str, np.ndarray]) -> np.ndarray:
            return convert_quat(np.array(self.sim.data.body_xquat[self.cube_body[name]]), to="xyzw")

        return quaternion

    def stands_on(self, upper: str, lower: str, height_m: float) -> bool:
        """Whether ``upper`` is not grasped, touches ``lower``, and its centre is ``height_m`` above the table top."""
        z = self.sim.data.body_xpos[self.cube_body[upper]][2]
        return bool(
            z > TABLE_TOP_M[2] + height_m
            and self.check_contact(self.cubes[upper], self.cubes[lower])
            and not self._check_grasp(gripper=self.robots[0].gripper, object_geoms=self.cubes[upper])
        )

    def _check_success(self) -> bool:
        return self.stands_on("cubeA", "cubeB", self.ON_B_HEIGHT_M) and self.stands_on(
            "cubeC", "cubeA", self.ON_A_HEIGHT_M
        )

    def reward(self, action: np.ndarray | None = None) -> float:
        """1 where the task is solved, else 0."""
        return float(self._check_success())


def _difference(of: str, minus: str) -> Any:
    """A sensor of ``of - minus``, both read earlier in the same observation; zeros where they were not."""

    @sensor(modality="object")
    def difference(cache: dict[str, np.ndarray]) -> np.ndarray:
        return cache[of] - cache[minus] if of in cache and minus in cache else np.zeros(3)

    return difference
