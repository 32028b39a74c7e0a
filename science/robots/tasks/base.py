"""What a task is, and what its running simulation must do. Every evaluator, expert, policy and renderer sees only this.

A `Suite` is a set of tasks that may be compared with each other; a result always names its suite. Other packages add
suites through the entry point group `tracebed.suites`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

Observation = Mapping[str, np.ndarray]

ROBOSUITE = "robosuite"
"""The engine that every task has: robosuite's own control step."""

EXACT = "exact"
"""The fast control step, bit-equal to robosuite's on the tasks that name it in `Task.engines`."""


class TaskError(ValueError):
    """A task that does not exist, or a suite that is not installed."""


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes
    ----------
    suite, name : together they are the partition key `<suite>.<name>`.
    version : raised whenever resets, success, horizon or observations change; part of the environment hash.
    horizon_steps : control steps after which an episode ends.
    control_hz : control steps a second of simulated time.
    observation : keys of the low-dimensional observation and their lengths, in robomimic's names.
    action_dim : length of an action; each element is in [-1, 1].
    milestones : what must be achieved, in order; the last is released or lifted, and success itself is apart.
    make : builds the simulation for an engine's name; heavy imports happen here.
    engines : the engines that were verified for this task, preferred first; `robosuite` is always the last.
    expert : `module:Class` of the scripted expert (a `Policy`), or None where the suite has none.
    instruction : what is to be done, in words, for policies that read language. It decides no episode by itself: a
        policy keeps the one that it was trained with.
    cameras : cameras of the model that a policy may look through.
    """

    suite: str
    name: str
    version: str
    horizon_steps: int
    control_hz: int
    observation: Mapping[str, int]
    action_dim: int
    milestones: tuple[str, ...]
    make: Callable[[str], Simulation]
    engines: tuple[str, ...] = (ROBOSUITE,)
    expert: str | None = None
    instruction: str = ""
    cameras: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`<suite>.<name>`, the partition key."""
        return f"{self.suite}.{self.name}"


@dataclass(frozen=True)
class Suite:
    """Tasks that share an implementation.

    Attributes
    ----------
    name : part of every task's key.
    tasks : by name, without the suite's own.
    environment : name of the interpreter that its jobs need (`default` is the platform's own).
    unavailable : why the suite cannot run in THIS interpreter and how to install it; None where it can.
    provenance : versions, git SHA and mode of what decides its physics, in this interpreter.
    """

    name: str
    tasks: Mapping[str, Task]
    environment: str
    unavailable: Callable[[], str | None]
    provenance: Callable[[], Mapping[str, str]]


class Simulation(ABC):
    """A running task. One instance serves many episodes; an episode is determined by its seed alone."""

    task: Task
    engine: str

    @abstractmethod
    def reset(self, seed: int) -> Observation:
        """Begin the episode of a seed. Nothing that happened before may change what follows, bit for bit."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Observation:
        """Apply one action ``[action_dim]`` in [-1, 1] for one control step; returns the next observation."""

    @abstractmethod
    def success(self) -> bool:
        """Whether the task is solved in the present state."""

    @abstractmethod
    def milestones(self) -> tuple[bool, ...]:
        """For each of `Task.milestones`, whether it holds in the present state."""

    @abstractmethod
    def holding(self) -> bool:
        """Whether the gripper holds the object that is to be moved now."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """The full physics state: time, qpos, qvel, ``[n_state]`` float64."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> None:
        """Go to a recorded state of this seed's episode (for rendering and replay), kinematics computed."""

    @abstractmethod
    def observe(self) -> Observation:
        """The observation of the present state, computed afresh."""

    @abstractmethod
    def target(self) -> str:
        """Name of the object that is to be moved now, for the perturbations below."""

    @abstractmethod
    def objects(self) -> tuple[str, ...]:
        """Names of the objects that can be moved."""

    @abstractmethod
    def object_position(self, name: str) -> np.ndarray:
        """World position of an object's body, ``[3]`` m."""

    @abstractmethod
    def gripper_position(self) -> np.ndarray:
        """World position between the fingers, ``[3]`` m."""

    @abstractmethod
    def move_object(self, name: str, offset: np.ndarray) -> None:
        """Displace an object by ``offset`` [3] m at once and stop its motion."""

    @abstractmethod
    def push_object(self, name: str, force: np.ndarray) -> None:
        """Push an object with ``force`` [3] N during the next control step."""

    @abstractmethod
    def model_xml(self) -> str:
        """The MJCF of the present episode's model."""

    @property
    @abstractmethod
    def mujoco_model(self) -> mujoco.MjModel:
        """The compiled model of the present episode (read only)."""

    @property
    @abstractmethod
    def mujoco_data(self) -> mujoco.MjData:
        """Its data (read only: change it through this class)."""

    @abstractmethod
    def env_args(self) -> Mapping[str, object]:
        """robomimic's `env_args` (env_name, env_version, type, env_kwargs): JSON types only."""

    @abstractmethod
    def close(self) -> None:
        """Free what the simulation holds."""
