"""What the scripted experts see in an observation, and the moves they are made of: grasp, carry, release.

Each move is a funnel: the nearer to the vertical above its goal, the lower it goes, so there is no phase to dwell
between. All are functions of what is seen now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from science.robots.tasks.base import Observation

OPEN, CLOSE = -1.0, 1.0

BASE_XY_M = np.array([-0.56, 0.0])
"""Where the robot stands, before a table of 0.8 m."""
UPRIGHT_REACH_M = 0.68
TILT_PER_M = 4.0
MOST_TILT_RAD = 0.4
"""Up to this reach the hand points straight down; beyond it tilts outwards, up to this much."""

WIDE_OPEN_M = 0.070
"""Distance of the fingers from which a cube of 0.04 m passes freely (fully open: 0.08)."""
CLOSED_ON_CUBE_M = (0.030, 0.0465)
"""Distance of the fingers when they are closed on a cube of 0.040-0.044 m."""

BETWEEN_FINGERS_M = np.array([0.010, 0.010, 0.010])
"""Cube to gripper, per axis: within this the fingers may close."""
IN_HAND_M = np.array([0.018, 0.018, 0.022])
"""Cube to gripper, per axis: within this a closed gripper holds the cube."""
ALIGNED_YAW_RAD = 0.12

APPROACH_HEIGHT_M = 0.07
CARRY_HEIGHT_M = 0.05
CLEARANCE_M = 0.012
"""A carried cube moves sideways only when this far above what it is carried to."""
STANDING_XY_M = 0.014
STANDING_Z_M = 0.006
"""A cube this near to standing on the other one is let go, and counts as standing."""
RETREAT_HEIGHT_M = 0.10


@dataclass(frozen=True)
class Cube:
    """A cube as it is observed: centre ``[3]`` m, yaw in rad, half its edge in m."""

    position: np.ndarray
    yaw: float
    half_extent_m: float


@dataclass(frozen=True)
class Gripper:
    """The gripper as it is observed.

    ``axes`` are the hand's axes in the world as columns ``[3, 3]``; the third points out of the hand. ``width_m`` is
    the distance of the fingers.
    """

    position: np.ndarray
    axes: np.ndarray
    width_m: float

    @property
    def finger_yaw(self) -> float:
        """Direction in which the fingers open, in rad; a cube's sides repeat every quarter turn."""
        return float(np.arctan2(self.axes[1, 1], self.axes[0, 1]))


@dataclass(frozen=True)
class Command:
    """Where the gripper is to go: ``displacement`` [3] m from where it is, ``turn`` about the vertical in rad."""

    displacement: np.ndarray
    turn: float
    fingers: float


def rotation_matrix(quaternion_xyzw: np.ndarray) -> np.ndarray:
    """Rotation ``[3, 3]`` of a unit quaternion ``[4]`` (x, y, z, w)."""
    x, y, z, w = quaternion_xyzw
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def raised(position: np.ndarray, height_m: float) -> np.ndarray:
    """The point ``[3]`` that is ``height_m`` above a position."""
    return np.array([position[0], position[1], position[2] + height_m])


def quarter_turn(angle: float) -> float:
    """The angle modulo a quarter turn, in [-pi/4, pi/4)."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def see_gripper(observation: Observation) -> Gripper:
    """The gripper of an observation."""
    fingers = observation["robot0_gripper_qpos"]
    return Gripper(
        position=np.asarray(observation["robot0_eef_pos"], dtype=np.float64),
        axes=rotation_matrix(observation["robot0_eef_quat"]),
        width_m=float(fingers[0] - fingers[1]),
    )


def see_cube(observation: Observation, start: int, half_extent_m: float) -> Cube:
    """The cube whose position and quaternion (xyzw) begin at ``object[start]``."""
    pose = observation["object"][start : start + 7]
    axes = rotation_matrix(pose[3:7])
    level = int(np.argmin(np.abs(axes[2])))  # a cube may lie on any side: one of its level axes gives the yaw
    return Cube(
        position=np.asarray(pose[:3], dtype=np.float64),
        yaw=float(np.arctan2(axes[1, level], axes[0, level])),
        half_extent_m=half_extent_m,
    )


def holds(gripper: Gripper, cube: Cube) -> bool:
    """Whether the gripper is closed on the cube."""
    low, high = CLOSED_ON_CUBE_M
    near = np.abs(cube.position - gripper.position) < IN_HAND_M
    return bool(near.all() and low < gripper.width_m < high)


def stands_on(upper: Cube, lower: Cube) -> bool:
    """Whether the upper cube stands on the lower one, or is so near to it that it may be let go."""
    apart = upper.position - lower.position
    height = upper.half_extent_m + lower.half_extent_m
    return bool(np.linalg.norm(apart[:2]) < STANDING_XY_M and abs(apart[2] - height) < STANDING_Z_M)


def hand_direction(position: np.ndarray) -> np.ndarray:
    """Where the hand points at a position of the gripper: down, and outwards near the end of the arm's reach.

    Pointing straight down there would stretch the arm beyond its elbow's singularity, from where it does not come back.
    """
    outwards = position[:2] - BASE_XY_M
    reach = float(np.linalg.norm(outwards))
    tilt = np.clip(TILT_PER_M * (reach - UPRIGHT_REACH_M), 0.0, MOST_TILT_RAD)
    return np.array([*(np.sin(tilt) * outwards / max(reach, 1e-6)), -np.cos(tilt)])


def grasp_turn(gripper: Gripper, cube: Cube, obstacles: Sequence[Cube]) -> float:
    """The turn to a side of the cube whose fingers and hand stay clear of the obstacles, in rad.

    Of the two sides that can be grasped the nearer one, unless an obstacle stands in the way of the fingers there.
    """
    nearest = quarter_turn(cube.yaw - gripper.finger_yaw)
    other = nearest - np.copysign(np.pi / 2, nearest)
    return min(
        (nearest, other), key=lambda turn: abs(turn) + 6.0 * _blocked(gripper.finger_yaw + turn, cube, obstacles)
    )


def _blocked(finger_yaw: float, cube: Cube, obstacles: Sequence[Cube]) -> float:
    """How much of the obstacles lies where the hand would be: 0 for none, 1 for the nearest possible."""
    along = np.array([np.cos(finger_yaw), np.sin(finger_yaw)])
    most = 0.0
    for obstacle in obstacles:
        apart = (obstacle.position - cube.position)[:2]
        distance = float(np.linalg.norm(apart))
        if distance < 0.12:
            most = max(most, abs(float(apart @ along)) / max(distance, 1e-6) * (0.12 - distance) / 0.06)
    return most


def grasp(gripper: Gripper, cube: Cube, obstacles: Sequence[Cube], clear_z_m: float = 0.0) -> Command:
    """Approach the cube from above and close on it. Away from it the gripper stays above ``clear_z_m``."""
    apart = cube.position - gripper.position
    turn = grasp_turn(gripper, cube, obstacles)
    if (np.abs(apart) < BETWEEN_FINGERS_M).all() and abs(turn) < ALIGNED_YAW_RAD:
        return Command(apart, turn, CLOSE)
    sideways = float(np.linalg.norm(apart[:2]))
    funnel = 3.0 * max(0.0, sideways - 0.006) + 0.15 * max(0.0, abs(turn) - 0.06)
    height = min(APPROACH_HEIGHT_M, funnel)
    if gripper.width_m < WIDE_OPEN_M:
        height = APPROACH_HEIGHT_M
    goal = raised(cube.position, height)
    if sideways > 0.03:
        goal[2] = max(goal[2], clear_z_m)
    displacement = goal - gripper.position
    if gripper.position[2] < clear_z_m - 0.01 and sideways > 0.03:
        displacement[:2] = 0.0
    return Command(displacement, turn, OPEN)


def carry(cube: Cube, onto: Cube) -> Command:
    """Bring the held cube up, over the other one and down onto it."""
    goal = raised(onto.position, cube.half_extent_m + onto.half_extent_m)
    apart = goal - cube.position
    sideways = float(np.linalg.norm(apart[:2]))
    apart[2] += min(CARRY_HEIGHT_M, 3.0 * max(0.0, sideways - 0.006))
    above = cube.position[2] - goal[2]
    if sideways > 0.02:
        apart[:2] *= np.clip((above - CLEARANCE_M) / 0.02, 0.0, 1.0)
    return Command(apart, 0.0, CLOSE)


def release(gripper: Gripper, cube: Cube) -> Command:
    """Let go of a cube that stands, then leave upwards."""
    displacement = np.zeros(3)
    if gripper.width_m > WIDE_OPEN_M:
        displacement[2] = cube.position[2] + RETREAT_HEIGHT_M - gripper.position[2]
    return Command(displacement, 0.0, OPEN)
