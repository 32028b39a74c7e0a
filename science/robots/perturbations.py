"""Perturbed arms: what is done to an episode once, to see whether the policy recovers.

A perturbation is a trigger, an effect, its magnitude and duration, and a seed of its own. It fires at most once, before
the control step at which its trigger holds; where that never happens, the episode is of the class "not fired". For the
same seed the control and the perturbed arm are the same episode until it fires, so arms are paired by seed.

An effect that is at work hides success: an episode cannot end while the object is being pushed. References: LIBERO-Pro
2.0, FailureBench (arXiv 2601.07821), RecoveryChaining (arXiv 2410.13979).
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from science.robots.tasks.base import Simulation

if TYPE_CHECKING:
    import mujoco

CONTROL = "control"
"""The unperturbed arm."""

CODE_VERSION = "1"
"""Raised whenever a trigger or an effect changes what it does; numbers in `ARMS` are part of `version` themselves."""

NEAR_M = 0.06
RAISED_M = 0.005
"""A held object that is this far above where it rested is off the table. Lift is solved 0.02 m above, and one control
step moves the hand by 0.013 m: what is much higher might be seen only when the task is already solved."""

OPEN = -1.0
_DIRECTIONS = 8
_SUPPORT_TOLERANCE_M = 0.005


class PerturbationError(ValueError):
    """An arm that does not exist, or an effect that a task cannot have."""


class Effect(ABC):
    """What a perturbation does. ``vector`` is what was drawn when it fired."""

    def draw(
        self, simulation: Simulation, target: str, magnitude: float, action: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """What this episode's firing needs; None where it cannot fire here."""
        return np.zeros(0)

    @abstractmethod
    def apply(self, simulation: Simulation, target: str, vector: np.ndarray, action: np.ndarray, k: int) -> np.ndarray:
        """Do the ``k``-th step of the effect; returns the action that is taken instead of ``action``."""


@dataclass(frozen=True)
class Perturbation:
    """What may happen to an episode.

    Attributes
    ----------
    name : the arm.
    trigger : ``trigger(simulation, rest_z)``, whether it fires now; ``rest_z`` is the lowest height in m at which the
        target was seen in this episode.
    effect : what happens then.
    magnitude, unit : how strong it is; 0 where there is no more or less.
    duration_steps : control steps during which the effect is at work.
    """

    name: str
    trigger: Callable[[Simulation, float], bool]
    effect: Effect
    magnitude: float
    unit: str
    duration_steps: int

    def begin(self, seed: int) -> Disturbance:
        """The perturbation of one episode."""
        return Disturbance(self, seed)

    def identity(self) -> dict[str, str | float | int]:
        """All that decides it but code, as JSON types."""
        each = {field.name: getattr(self, field.name) for field in fields(self)}
        return each | {"trigger": self.trigger.__name__, "effect": type(self.effect).__name__}


class ForceOpen(Effect):
    """The gripper opens whatever the policy commands; the arm moves as commanded."""

    def apply(self, simulation: Simulation, target: str, vector: np.ndarray, action: np.ndarray, k: int) -> np.ndarray:
        return np.append(action[:-1], OPEN)


class Freeze(Effect):
    """The arm stands still; the gripper keeps the command that it had when the arm froze."""

    def draw(
        self, simulation: Simulation, target: str, magnitude: float, action: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return action[-1:].copy()

    def apply(self, simulation: Simulation, target: str, vector: np.ndarray, action: np.ndarray, k: int) -> np.ndarray:
        return np.append(np.zeros(len(action) - 1), vector)


class Push(Effect):
    """The target is pushed down, out of the fingers, with ``magnitude`` N.

    Fingers hold a cube against a side force until it is thrown off the table, so nothing lies between no effect and one
    that no policy recovers from; pushed down, it is lost and lands where it can be grasped again.
    """

    def draw(
        self, simulation: Simulation, target: str, magnitude: float, action: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return np.array([0.0, 0.0, -magnitude])

    def apply(self, simulation: Simulation, target: str, vector: np.ndarray, action: np.ndarray, k: int) -> np.ndarray:
        simulation.push_object(target, vector)
        return action


class Shift(Effect):
    """The target is displaced by ``magnitude`` m in a random horizontal direction in which there is room for it."""

    def draw(
        self, simulation: Simulation, target: str, magnitude: float, action: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        return _offset_with_room(simulation, target, magnitude, rng.uniform(0, 2 * np.pi))

    def apply(self, simulation: Simulation, target: str, vector: np.ndarray, action: np.ndarray, k: int) -> np.ndarray:
        if k == 0:
            simulation.move_object(target, vector)
        return action


class Disturbance:
    """A perturbation in one episode; it is asked before every control step.

    Attributes
    ----------
    fired_step : index of the first state that shows the effect, so 1 + the number of the control step before which it
        fired; None until then.
    """

    def __init__(self, perturbation: Perturbation, seed: int):
        self.perturbation = perturbation
        self.fired_step: int | None = None
        name = int.from_bytes(hashlib.sha256(perturbation.name.encode()).digest()[:8], "big")
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, name]))
        self._rest_z: dict[str, float] = {}
        self._target = ""
        self._vector = np.zeros(0)

    def before_step(self, simulation: Simulation, action: np.ndarray, step: int) -> np.ndarray:
        """Fire if it is time; returns the action ``[action_dim]`` that is to be taken in control step ``step``."""
        if self.fired_step is None:
            self._fire(simulation, action, step)
        if self.fired_step is None or not self.at_work(step):
            return action
        k = step + 1 - self.fired_step
        return self.perturbation.effect.apply(simulation, self._target, self._vector, action, k)

    def at_work(self, step: int) -> bool:
        """Whether the effect acts in control step ``step`` (counted from 0), if it has fired."""
        return self.fired_step is not None and step + 1 - self.fired_step < self.perturbation.duration_steps

    def _fire(self, simulation: Simulation, action: np.ndarray, step: int) -> None:
        target = simulation.target()
        z = float(simulation.object_position(target)[2])
        rest_z = self._rest_z[target] = min(z, self._rest_z.get(target, z))
        if not self.perturbation.trigger(simulation, rest_z):
            return
        effect, magnitude = self.perturbation.effect, self.perturbation.magnitude
        vector = effect.draw(simulation, target, magnitude, action, self._rng)
        if vector is not None:
            self.fired_step, self._target, self._vector = step + 1, target, vector


def raised(simulation: Simulation, rest_z: float) -> bool:
    """The gripper holds the target, off the table."""
    return simulation.holding() and float(simulation.object_position(simulation.target())[2]) > rest_z + RAISED_M


def near(simulation: Simulation, rest_z: float) -> bool:
    """The gripper is within `NEAR_M` of the target and does not hold it."""
    apart = simulation.gripper_position() - simulation.object_position(simulation.target())
    return bool(np.linalg.norm(apart) < NEAR_M) and not simulation.holding()


def reached(simulation: Simulation, rest_z: float) -> bool:
    """The task's first milestone holds: the target is between the fingers."""
    return simulation.milestones()[0]


ARMS: Mapping[str, Perturbation] = {
    each.name: each
    for each in (
        Perturbation("drop", raised, ForceOpen(), 0.0, "", 10),
        Perturbation("shift", near, Shift(), 0.05, "m", 1),
        Perturbation("push", raised, Push(), 80.0, "N", 2),
        Perturbation("freeze", reached, Freeze(), 0.0, "", 10),
    )
}
"""The perturbed arms that every evaluation may have, by name. Fingers take 10 steps to open; they hold against 40 N."""


def find_perturbation(arm: str) -> Perturbation | None:
    """The perturbation of an arm; None for `CONTROL`.

    Raises
    ------
    PerturbationError
        For an arm that does not exist.
    """
    if arm == CONTROL:
        return None
    if arm not in ARMS:
        raise PerturbationError(f"found arm {arm!r}, expected one of {[CONTROL, *ARMS]}")
    return ARMS[arm]


def version() -> str:
    """`CODE_VERSION` and a hash of all arms: other numbers never share a version."""
    identities = json.dumps([each.identity() for each in ARMS.values()], sort_keys=True)
    return f"{CODE_VERSION}-{hashlib.sha256(identities.encode()).hexdigest()[:8]}"


def _horizontal(length: float, angle: float) -> np.ndarray:
    return length * np.array([np.cos(angle), np.sin(angle), 0.0])


def _offset_with_room(simulation: Simulation, target: str, distance_m: float, angle: float) -> np.ndarray | None:
    """An offset [3] m at which the target stands as high above what it stands on, and touches nothing that can move.

    The first of eight directions from ``angle`` on; None where none has room. Tried on a copy of the physics.
    """
    import mujoco

    model, data = simulation.mujoco_model, simulation.mujoco_data
    body = _free_body(simulation, target)
    here = copy.copy(data)
    mujoco.mj_fwdPosition(model, here)
    height_m = _height_above_support(model, here, body)
    first = model.jnt_qposadr[model.body_jntadr[body]]
    for turn in range(_DIRECTIONS):
        offset = _horizontal(distance_m, angle + turn * 2 * np.pi / _DIRECTIONS)
        there = copy.copy(data)
        there.qpos[first : first + 3] += offset
        mujoco.mj_fwdPosition(model, there)
        level = abs(_height_above_support(model, there, body) - height_m) < _SUPPORT_TOLERANCE_M
        if level and not _touches_movable(model, there, body):
            return offset
    return None


def _free_body(simulation: Simulation, name: str) -> int:
    """The body with a free joint at the object's position.

    Raises
    ------
    PerturbationError
        When there is none: such an object cannot be displaced.
    """
    import mujoco

    model, data = simulation.mujoco_model, simulation.mujoco_data
    bodies = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    apart = np.linalg.norm(data.xpos[bodies] - simulation.object_position(name), axis=1)
    if not len(bodies) or apart.min() > 1e-3:
        raise PerturbationError(
            f"object {name!r} of task {simulation.task.key} has no free joint: it cannot be shifted"
        )
    return int(bodies[apart.argmin()])


def _height_above_support(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> float:
    """Distance in m from the body's origin straight down to what is fixed; infinite where there is nothing such."""
    import mujoco

    geom = np.full((1, 1), -1, dtype=np.int32)
    down = np.array([0.0, 0.0, -1.0])
    distance_m = mujoco.mj_ray(model, data, data.xpos[body], down, None, 1, body, geom)
    hit = int(geom[0, 0])
    return float(distance_m) if hit >= 0 and model.body_weldid[model.geom_bodyid[hit]] == 0 else np.inf


def _touches_movable(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> bool:
    """Whether the body has a contact with anything that is not fixed to the world."""
    bodies = model.geom_bodyid[data.contact.geom]
    of_body = (bodies == body).any(axis=1)
    movable = model.body_weldid[bodies] != 0
    return bool((of_body & movable.all(axis=1)).any())
