"""A running task of the `open` suite. Only processes that simulate import this module: it imports robosuite.

An episode is its seed: the generator of the robot's and the objects' placement is made anew from the seed before every
reset, every reset is of the same kind, and nothing else that robosuite keeps outlives a reset. Lift draws the cube's
size when its model is loaded, so it loads the model at every reset (150 ms); the others reset the loaded model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from science.robots.tasks import open_environments  # noqa: F401  registers its environments with robosuite
from science.robots.tasks.base import EXACT, Observation, Task
from science.robots.tasks.robosuite_simulation import ALIGNED_M, LIFTED_M, REACH_M, RobosuiteSimulation

TABLE_TOP_Z_M = 0.8
CUBE_HALF_EXTENT_M = 0.02


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


class OpenSimulation(RobosuiteSimulation):
    """Lift, Stack or StackThree."""

    def __init__(self, task: Task, environment: str, arguments: Mapping[str, Any], engine: str) -> None:
        """Build the environment ``environment`` (robosuite's name) with ``arguments`` beside the common ones.

        Raises
        ------
        TaskError
            For an engine that was not verified for the task.
        """
        super().__init__(task, engine, environment, arguments, hard_reset=environment == "Lift")
        self._placements = PLACEMENTS[task.name.split("_")[0]]
        self._exact: Any = None
        if engine == EXACT:
            from science.robots.engine.exact import ExactEngine

            self._exact = ExactEngine(self._env)

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

    def _advance(self, action: np.ndarray) -> Mapping[str, np.ndarray]:
        if self._exact is None:
            return super()._advance(action)
        self._exact.step(action)
        return self._env._get_observations()

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
