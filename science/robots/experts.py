"""Scripted experts of the `open` suite: functions of the present observation alone.

Each step decides from what is seen now - where the cubes are, how wide the gripper is open - and from nothing that was
remembered. So an expert recovers by itself from a drop, a shift or a push, and a policy that sees the same observation
can learn it. Goals are funnels (the nearer to the vertical, the lower), so that there is no phase to dwell between:

    approach   above the cube, gripper open, down as position and yaw come right
    close      between the fingers: close, hold still
    carry      closed on the cube: up, over, down onto the other one
    release    the cube stands on the other one: open, then up and away

Actions are proportional to the error of the pose, on OSC_POSE deltas in the robot's base frame, whose axes are the
world's: ``clip(gain * error)``.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from science.robots.expert_moves import (
    CLOSE,
    Command,
    Gripper,
    carry,
    grasp,
    hand_direction,
    holds,
    release,
    see_cube,
    see_gripper,
    stands_on,
)
from science.robots.policies.base import Policy
from science.robots.tasks.base import Observation, Task

POSITION_GAIN = 14.0
"""1/m. A full action asks for 0.05 m; 20/m would ask for the whole error at once."""
ROTATION_GAIN = 2.0
"""1/rad. A full action asks for 0.5 rad, so this asks for the whole error at once."""
LIFTED_Z_M = 0.92
"""Where the Lift expert holds the cube, 0.12 m above the table top."""


class Expert(Policy):
    """What all experts share: observation, action noise, and the action of a command.

    Parameters
    ----------
    task : the task to solve.
    noise : standard deviation of Gaussian noise on the six arm actions, drawn from the episode's seed. The gripper has
        none. Demonstrations with noise hold recoveries.
    """

    def __init__(self, task: Task, noise: float = 0.0) -> None:
        self.observation = dict(task.observation)
        self.action_dim = task.action_dim
        self.noise = noise
        self.start(0)

    def start(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, observation: Observation) -> np.ndarray:
        gripper = see_gripper(observation)
        command = self.decide(gripper, observation)
        turn = np.cross(gripper.axes[:, 2], hand_direction(gripper.position))
        turn[2] += command.turn
        action = np.empty(7)
        action[:3] = POSITION_GAIN * command.displacement
        action[3:6] = ROTATION_GAIN * turn
        action[:6] = np.clip(action[:6], -1.0, 1.0)
        if self.noise > 0:
            action[:6] += self.noise * self._generator.standard_normal(6)
        action[6] = command.fingers
        return np.clip(action, -1.0, 1.0)

    @abstractmethod
    def decide(self, gripper: Gripper, observation: Observation) -> Command:
        """Where the gripper is to go now."""


class LiftExpert(Expert):
    """Lift: grasp the cube and go up. `object`: cube_pos 0:3, cube_quat 3:7, gripper_to_cube_pos 7:10."""

    def decide(self, gripper: Gripper, observation: Observation) -> Command:
        cube = see_cube(observation, 0, 0.021)
        if holds(gripper, cube):
            return Command(np.array([0.0, 0.0, LIFTED_Z_M - cube.position[2]]), 0.0, CLOSE)
        return grasp(gripper, cube, ())


class StackExpert(Expert):
    """Stack: cube A onto B.

    `object`: cubeA_pos 0:3, cubeA_quat 3:7, cubeB_pos 7:10, cubeB_quat 10:14, cubeA_to_cubeB 14:17,
    gripper_to_cubeA 17:20, gripper_to_cubeB 20:23.
    """

    def decide(self, gripper: Gripper, observation: Observation) -> Command:
        a = see_cube(observation, 0, 0.02)
        b = see_cube(observation, 7, 0.025)
        if stands_on(a, b):
            return release(gripper, a)
        if holds(gripper, a):
            return carry(a, b)
        return grasp(gripper, a, (b,))


class StackThreeExpert(Expert):
    """StackThree: A onto B, then C onto A.

    `object`: cubeA_pos 0:3, cubeA_quat 3:7, cubeB_pos 7:10, cubeB_quat 10:14, cubeC_pos 14:17, cubeC_quat 17:21, the
    rest are differences of these.
    """

    def decide(self, gripper: Gripper, observation: Observation) -> Command:
        a = see_cube(observation, 0, 0.02)
        b = see_cube(observation, 7, 0.025)
        c = see_cube(observation, 14, 0.02)
        if not stands_on(a, b):
            return carry(a, b) if holds(gripper, a) else grasp(gripper, a, (b, c))
        if stands_on(c, a):
            return release(gripper, c)
        if holds(gripper, c):
            return carry(c, a)
        around_a = gripper.position - a.position
        if np.linalg.norm(around_a[:2]) < 0.02 and around_a[2] < 0.04:
            return release(gripper, a)
        return grasp(gripper, c, (a,), clear_z_m=a.position[2] + 0.05)
