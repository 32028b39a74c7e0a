"""A running task of MimicGen. Only processes that simulate import this module: it imports robosuite and MimicGen.

An episode is its seed. MimicGen's environments draw from NumPy's and Python's global generators while the model is
loaded, robosuite 1.5's samplers from generators of their own, made anew with the model. So every reset loads the model
(0.2 s), with both global generators seeded (and given back as they were) and every sampler's generator set before it
is asked. Steps draw nothing.

Where robosuite 1.5 computes poses relative to the gripper before the poses themselves (Square, NutAssembly,
PickPlace), they lag one physics step behind and are zero at a reset; the reset's observation is therefore read by
`observe`, which is equal where nothing lags.
"""

from __future__ import annotations

import contextlib
import io
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import mujoco
import numpy as np
import robosuite
from robosuite.environments.base import REGISTERED_ENVS
from robosuite.models.objects import MujocoObject

from science.robots.tasks.base import Observation, Task, TaskError
from science.robots.tasks.mimicgen_install import SHIM, TASK_ZOO, mode, unavailable
from science.robots.tasks.mimicgen_tasks import Goal, family, observable_length
from science.robots.tasks.robosuite_simulation import ALIGNED_M, LIFTED_M, REACH_M, RobosuiteSimulation

_BUILD_ERRORS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What an environment raises that does not fit its robosuite, mujoco or numpy."""


@cache
def import_mimicgen() -> str:
    """Import MimicGen, with the shim where robosuite 1.5 needs it; returns what it printed.

    MimicGen registers its environments as it is imported, and prints rather than raises what it could not import.

    Raises
    ------
    TaskError
        Where it is not installed, or fails.
    """
    reason = unavailable()
    if reason is not None:
        raise TaskError(reason)
    if mode() == SHIM:
        from science.robots.tasks.mimicgen_shim import install

        install()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            import mimicgen  # noqa: F401
    except (*_BUILD_ERRORS, ImportError) as error:
        raise TaskError(
            f"MimicGen could not be imported: {type(error).__name__}: {error}. {said.getvalue()}"
        ) from error
    return " ".join(said.getvalue().split())


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed NumPy's and Python's global generators, and give them back as they were."""
    numpys, pythons = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


class MimicgenSimulation(RobosuiteSimulation):
    """A Panda in one of MimicGen's environments, OSC_POSE deltas at 20 Hz, no cameras.

    Kitchen's success asks whether the pot was on the lit stove before: it is not a function of the state alone, and
    after `set_state` it is unknown.
    """

    _sensing_passes = 2

    def __init__(self, task: Task, engine: str) -> None:
        """Build MimicGen's environment of the task's name.

        Raises
        ------
        TaskError
            Where MimicGen, or this task of it, cannot run here; or where its observation is not what the task names.
        """
        of = family(task.name)
        self._goals = of.goals
        self._observables = of.object_observables
        _require(task, of.task_zoo)
        try:
            with global_generators(0):
                super().__init__(task, engine, task.name, {}, hard_reset=True)
        except TaskError:
            raise
        except _BUILD_ERRORS as error:
            raise TaskError(
                f"MimicGen's environment {task.name} cannot be built with robosuite {robosuite.__version__}, mujoco "
                f"{mujoco.__version__} and numpy {np.__version__}: {type(error).__name__}: {error}; another version of "
                f"these may fit, in a Python of its own that TRACEBED_PYTHON_MIMICGEN names"
            ) from error
        self._require_observation()
        self._reset_internal = self._env._reset_internal
        self._env._reset_internal = self._reset_with_seeded_samplers
        self._lifted_z: dict[str, float] = {}
        self._remember_heights()

    def _require_observation(self) -> None:
        """Hold the environment's observables of objects against the task's, by name and length."""
        shown = self._env._get_observations(force_update=True)
        found = {
            name: int(np.size(shown[name]))
            for name, observable in self._env._observables.items()
            if observable.modality == "object" and name in shown
        }
        expected = {name: observable_length(name) for name in self._observables}
        if found != expected:
            unknown = {name: length for name, length in found.items() if expected.get(name) != length}
            lacking = {name: length for name, length in expected.items() if found.get(name) != length}
            raise TaskError(
                f"task {self.task.key}: found observables {unknown}, expected {lacking} in their place; this MimicGen "
                f"or robosuite is not the one that was verified, and a policy would be fed other numbers"
            )

    def _controller_config(self) -> Mapping[str, Any]:
        if mode() == SHIM:
            return super()._controller_config()
        return robosuite.load_controller_config(default_controller="OSC_POSE")

    def _gripper(self) -> Any:
        return super()._gripper() if mode() == SHIM else self._env.robots[0].gripper

    def _controllers(self) -> Iterable[Any]:
        return super()._controllers() if mode() == SHIM else [self._env.robots[0].controller]

    def _things(self) -> Iterable[Any]:
        """The objects that the model lists, and those that an environment adds to it on its own (mugs, fixtures)."""
        env = self._env
        own = [value for value in vars(env).values() if isinstance(value, MujocoObject)]
        names = {
            mujoco.mj_id2name(self.mujoco_model, mujoco.mjtObj.mjOBJ_BODY, i) for i in range(self.mujoco_model.nbody)
        }
        return {thing.name: thing for thing in (*env.model.mujoco_objects, *own) if thing.root_body in names}.values()

    def _reset_with_seeded_samplers(self) -> None:
        """robosuite's `_reset_internal`, which samples placements; every sampler draws from the episode's seed."""
        samplers = [value for name, value in vars(self._env).items() if name.endswith("placement_initializer")]
        for sampler in samplers:
            for each in (sampler, *getattr(sampler, "samplers", {}).values()):
                each.rng = self._env.rng
        self._reset_internal()

    def reset(self, seed: int) -> Observation:
        with global_generators(seed):
            self._env.rng = np.random.default_rng(seed)
            self._env.reset()
        self._pushed = False
        self._look_up()
        self._remember_heights()
        return self.observe()

    def _remember_heights(self) -> None:
        """Above which height each object is lifted: nuts fall 6 cm after the reset, and falling is not being lifted."""
        for goal in self._goals:
            start_z = float(self.object_position(goal.moved)[2])
            self._lifted_z[goal.moved] = max(start_z, start_z - goal.drop_m + LIFTED_M)

    def _object_state(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The key `object` in the order of MimicGen's datasets, whatever robosuite's own order is."""
        return np.concatenate([np.array(observation[name], dtype=np.float64).ravel() for name in self._observables])

    def milestones(self) -> tuple[bool, ...]:
        return tuple(held for goal in self._goals if not goal.silent for held in self._milestones(goal))

    def _milestones(self, goal: Goal) -> list[bool]:
        """In the order of `Goal.milestones`.

        reach: a finger pad touches the object, or the gripper is within `REACH_M` of the centre of one of its parts
        (handles are far from centres). grasp: both pads touch it (robosuite's definition). lift: `LIFTED_M` above
        where it comes to rest after the reset, and above where it fell from. align: lifted, and within `ALIGNED_M` of
        the other one's vertical. release: in its place and not grasped.
        """
        parts = self._geoms[goal.moved]
        centres = self.mujoco_data.geom_xpos[parts]
        near = np.linalg.norm(centres - self.gripper_position(), axis=1).min() < REACH_M
        reach = bool(near) or any(self._touching(pad, parts) for pad in self._pads)
        lift = bool(self.object_position(goal.moved)[2] > self._lifted_z[goal.moved])
        held = [reach, self._grasped(goal.moved), lift]
        if goal.align:
            held.append(lift and self._above(goal.moved, goal.align))
        if goal.place and goal.release:
            held.append(self._released(goal))
        return held

    def _above(self, name: str, other: str) -> bool:
        apart = (self.object_position(name) - self.object_position(other))[:2]
        return bool(np.linalg.norm(apart) < ALIGNED_M)

    def _released(self, goal: Goal) -> bool:
        """Whether an object is in its place and not grasped; False where only success tells."""
        if goal.place is None or self._grasped(goal.moved):
            return False
        kind, _, name = goal.place.partition(":")
        if kind == "touch":
            return self._touching(self._geoms[goal.moved], self._geoms[name])
        if kind == "metric":
            return bool(self._env._get_partial_task_metrics()[name])
        position = self.object_position(goal.moved)
        if kind == "on_peg":
            return bool(self._env.on_peg(position, int(name)))
        return not self._env.not_in_bin(position, int(name))

    def target(self) -> str:
        """The first object that is not yet where it belongs, or the last one."""
        for goal in self._goals:
            if not self._released(goal) or (goal.align and not self._above(goal.moved, goal.align)):
                return goal.moved
        return self._goals[-1].moved

    def holding(self) -> bool:
        return self._grasped(self.target())

    def model_xml(self) -> str:
        """The MJCF of the episode's model, with fixtures (drawers, bins) where the reset has put them.

        MimicGen and robosuite move them in the compiled model only.
        """
        root = ET.fromstring(super().model_xml())
        model = self.mujoco_model
        for body in root.findall("./worldbody/body"):
            if body.find("freejoint") is not None or body.find("joint[@type='free']") is not None:
                continue
            number = model.body(body.get("name")).id
            for attribute in ("euler", "axisangle", "xyaxes", "zaxis"):
                body.attrib.pop(attribute, None)
            body.set("pos", " ".join(repr(float(value)) for value in model.body_pos[number]))
            body.set("quat", " ".join(repr(float(value)) for value in model.body_quat[number]))
        return ET.tostring(root, encoding="unicode")


def _require(task: Task, task_zoo: bool) -> None:
    """Import MimicGen and refuse a task that it, or this robosuite, has not.

    Raises
    ------
    TaskError
        With what is missing.
    """
    said = import_mimicgen()
    if task_zoo and mode() == SHIM:
        raise TaskError(
            f"task {task.key} is built on {TASK_ZOO}, which runs with robosuite 1.4.1 only (it reads the gripper's "
            f"force as an array); found robosuite {robosuite.__version__}: use a Python with 1.4.1, named by "
            f"TRACEBED_PYTHON_MIMICGEN"
        )
    if task.name not in REGISTERED_ENVS:
        remedy = "; install https://github.com/ARISE-Initiative/robosuite-task-zoo with --no-deps" if task_zoo else ""
        raise TaskError(
            f"found no environment {task.name!r} among those that MimicGen registered; it said: "
            f"{said or 'nothing'}{remedy}"
        )
