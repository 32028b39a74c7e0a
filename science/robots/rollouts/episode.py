"""One episode: a policy on a seed, to success or to the horizon.

Whatever is raised on the way - by the policy, by its action, by the simulation - makes the outcome `error`, which is
never a failure: a failure is an episode in which everything worked and the task was not solved. An episode that begins
solved says nothing of the policy, and is a class of its own. What hangs or dies is the pool's business (`pool.py`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from science.robots.cameras import Cameras
from science.robots.perturbations import CONTROL, Disturbance, Perturbation, find_perturbation
from science.robots.policies.base import Policy, checked_action
from science.robots.tasks.base import Simulation

SUCCESS = "success"
FAILURE = "failure"
ERROR = "error"
SOLVED_AT_RESET = "solved_at_reset"
OUTCOMES = (SUCCESS, FAILURE, ERROR, SOLVED_AT_RESET)

DROPPED = "dropped"
TIMEOUT = "timeout"

ARRAYS = ("states", "actions", "milestones")
_LATER_TIMES = ("policy_s", "simulation_s", "server_s")
TIMES = ("wall_s", "cpu_s", *_LATER_TIMES)
"""Fields that differ when an episode is run again."""


class SimulationError(RuntimeError):
    """A state that is no state of the episode: the physics diverged."""


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened in one episode.

    Attributes
    ----------
    seed, arm : they decide the episode, for one policy and one environment.
    outcome : one of `OUTCOMES`.
    stage : the outcome, or for a failure the stage where it stopped, see `last_stage`.
    steps : control steps that were taken.
    wall_s, cpu_s : wall and CPU time of the episode, in s.
    policy_s, simulation_s : of the wall time, waiting for actions, and resetting and stepping the simulation; None
        where it was not measured.
    server_s : of ``policy_s``, queue and inference in a policy server; None without a server.
    engine : the control step that ran it.
    success_step : index of the first state in which the task was solved and no perturbation was at work.
    fired_step : index of the first state that shows the perturbation; None where it did not fire.
    initial_state_hash : SHA-256 of the first state; None where there is none.
    trajectory_hash : SHA-256 of states and actions; None where there is none.
    error : what was raised and where; None but for `error`.
    states : ``[steps + 1, n_state]`` float64, see `Simulation.state`; ``[0, 0]`` where the episode never began.
    actions : ``[steps, action_dim]`` float64, as they were taken, so after the perturbation.
    milestones : ``[steps + 1, n_milestones]`` bool, whether each held in each state.
    """

    seed: int
    arm: str
    outcome: str
    stage: str
    steps: int
    wall_s: float
    cpu_s: float
    engine: str
    success_step: int | None = None
    fired_step: int | None = None
    initial_state_hash: str | None = None
    trajectory_hash: str | None = None
    error: str | None = None
    policy_s: float | None = None
    simulation_s: float | None = None
    server_s: float | None = None
    states: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    actions: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    milestones: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=bool), repr=False)

    @property
    def fired(self) -> bool:
        """Whether the perturbation fired."""
        return self.fired_step is not None

    @property
    def recovery_steps(self) -> int | None:
        """Control steps from firing to success; None without either."""
        if self.fired_step is None or self.success_step is None:
            return None
        return self.success_step - self.fired_step

    def record(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON types; `fired` and `recovery_steps` are there too."""
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ARRAYS}
        return kept | {"fired": self.fired, "recovery_steps": self.recovery_steps}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Episode:
        """The episode of what `record` gave, and its arrays. Times that older records lack are None.

        Raises
        ------
        KeyError
            When a field or an array is missing.
        """
        names = [each.name for each in fields(cls) if each.name not in (*ARRAYS, *_LATER_TIMES)]
        given: dict[str, Any] = {name: record[name] for name in names} | {name: arrays[name] for name in ARRAYS}
        return cls(**(given | {name: record.get(name) for name in _LATER_TIMES}))


def run_episode(
    simulation: Simulation,
    policy: Policy,
    seed: int,
    *,
    arm: str = CONTROL,
    perturbation: Perturbation | None = None,
    horizon_steps: int | None = None,
    cameras: Cameras | None = None,
) -> Episode:
    """Run one episode. It ends when the task is solved, or after ``horizon_steps`` (default: the task's).

    ``perturbation`` is that of ``arm`` unless another is given. ``cameras`` are of this simulation, and needed where
    the policy reads pictures.

    Raises
    ------
    PerturbationError
        For an arm that does not exist. Whatever else is raised is the episode's outcome.
    """
    perturbation = perturbation or find_perturbation(arm)
    run = _Run(simulation, policy, perturbation.begin(seed) if perturbation else None, cameras)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    error = None
    try:
        outcome = run.play(seed, horizon_steps or simulation.task.horizon_steps)
    # The one place that takes any exception: whatever a policy or a simulation raises must cost its own episode only,
    # and must be seen as an error of that episode, never as a failure of the policy and never as the end of the rest.
    except Exception as raised:  # noqa: BLE001
        outcome, error = ERROR, f"{type(raised).__name__} in {run.where}: {raised}"
    return run.episode(seed, arm, outcome, error, time.perf_counter() - began_s, time.process_time() - began_cpu_s)


def lost_episode(seed: int, arm: str, error: str, wall_s: float, engine: str) -> Episode:
    """The record of an episode of which nothing came back: its worker hung or died."""
    return Episode(seed, arm, ERROR, ERROR, 0, wall_s, 0.0, engine, error=error)


def hash_trajectory(states: np.ndarray, actions: np.ndarray) -> str:
    """SHA-256 (hex) of the shapes and bytes of states ``[T+1, n_state]`` and actions ``[T, action_dim]``."""
    digest = hashlib.sha256()
    for array in (states, actions):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


def last_stage(names: Sequence[str], milestones: np.ndarray, holding: bool) -> str:
    """Where an episode that was not solved stopped.

    Parameters
    ----------
    names
        The task's milestones, ``<kind>`` or ``<kind>_<object>``; those with the same end are of one object.
    milestones
        ``[T+1, n_milestones]`` bool.
    holding
        Whether the object that is to be moved is held at the end.

    Returns
    -------
    ``no_<first milestone not reached>``, but `dropped` where that one's object was grasped or lifted and at the end is
    neither held nor aligned. Where every milestone was reached: `timeout`, but `dropped` where the last object is not
    to be released and yet is not held.
    """
    ever = np.asarray(milestones.any(axis=0))
    first = None if ever.all() else names[int(ever.argmin())]
    which = (first or names[-1]).partition("_")[2]
    of_object = {name.partition("_")[0]: index for index, name in enumerate(names) if name.partition("_")[2] == which}
    if first is None:
        return TIMEOUT if holding or "release" in of_object else DROPPED
    had = any(ever[of_object[kind]] for kind in ("grasp", "lift") if kind in of_object)
    aligned = "align" in of_object and bool(milestones[-1, of_object["align"]])
    return DROPPED if had and not holding and not aligned else f"no_{first}"


class _Run:
    """The episode while it runs: what was seen so far, and where it is."""

    def __init__(
        self, simulation: Simulation, policy: Policy, disturbance: Disturbance | None, cameras: Cameras | None
    ):
        self.simulation = simulation
        self.policy = policy
        self.disturbance = disturbance
        self.cameras = cameras
        self.states: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.milestones: list[tuple[bool, ...]] = []
        self.holding = False
        self.where = "simulation.reset"
        self.policy_s = self.simulation_s = 0.0

    def play(self, seed: int, horizon_steps: int) -> str:
        """Run to the end; returns the outcome."""
        began_s = time.perf_counter()
        observation = self.simulation.reset(seed)
        self.simulation_s += time.perf_counter() - began_s
        self._see()
        if self.simulation.success():
            return SOLVED_AT_RESET
        if self.cameras is not None:
            self.where = "the cameras"
            self.cameras.begin()
        self.where = "policy.start"
        self.policy.start(seed)
        for step in range(horizon_steps):
            self.where = f"policy.act at step {step}"
            began_s = time.perf_counter()
            seen = observation if self.cameras is None else self.cameras.see(observation)
            action = checked_action(self.policy.act(seen), self.simulation.task.action_dim)
            self.policy_s += time.perf_counter() - began_s
            if self.disturbance:
                self.where = f"the perturbation at step {step}"
                action = self.disturbance.before_step(self.simulation, action, step)
            self.where = f"simulation.step at step {step}"
            began_s = time.perf_counter()
            observation = self.simulation.step(action)
            self.simulation_s += time.perf_counter() - began_s
            self.actions.append(action)
            self._see()
            if self.simulation.success() and not (self.disturbance and self.disturbance.at_work(step + 1)):
                return SUCCESS
        self.holding = self.simulation.holding()
        return FAILURE

    def _see(self) -> None:
        """Record the present state.

        Raises
        ------
        SimulationError
            For a state that is not finite, or whose time did not go on: MuJoCo resets itself where it diverges.
        """
        state = self.simulation.state()
        if not np.isfinite(state).all():
            raise SimulationError("the state is not finite: the physics diverged")
        if self.states and not state[0] > self.states[-1][0]:
            raise SimulationError(f"time went from {self.states[-1][0]:g} to {state[0]:g} s: the physics diverged")
        self.states.append(state)
        self.milestones.append(self.simulation.milestones())

    def episode(self, seed: int, arm: str, outcome: str, error: str | None, wall_s: float, cpu_s: float) -> Episode:
        """The episode, of what was seen."""
        task = self.simulation.task
        # What was raised may have come between an action, its state, and the state's milestones.
        n_states = len(self.milestones)
        steps = max(n_states - 1, 0)
        states = np.array(self.states[:n_states], dtype=np.float64) if n_states else np.empty((0, 0))
        actions = np.array(self.actions[:steps], dtype=np.float64).reshape(steps, task.action_dim)
        milestones = np.array(self.milestones, dtype=bool).reshape(n_states, len(task.milestones))
        return Episode(
            seed=seed,
            arm=arm,
            outcome=outcome,
            stage=last_stage(task.milestones, milestones, self.holding) if outcome == FAILURE else outcome,
            steps=steps,
            wall_s=wall_s,
            cpu_s=cpu_s,
            engine=self.simulation.engine,
            success_step=steps if outcome == SUCCESS else None,
            fired_step=self.disturbance.fired_step if self.disturbance else None,
            initial_state_hash=hashlib.sha256(states[0].tobytes()).hexdigest() if n_states else None,
            trajectory_hash=hash_trajectory(states, actions) if n_states else None,
            error=error,
            policy_s=self.policy_s,
            simulation_s=self.simulation_s,
            server_s=self.policy.server_s,
            states=states,
            actions=actions,
            milestones=milestones,
        )
