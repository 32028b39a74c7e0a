"""`ExactEngine`: robosuite's control step at about half of MuJoCo's own speed, bit for bit the same.

What robosuite does 25 times a step in Python is one compiled loop with `mj_step1` and `mj_step2`; its observables it
reads itself, when their time has come. robosuite's histories of forces and poses (`recent_*` of the robot) and the
reward are not computed: no observation or controller reads them.

Heavy import (mujoco, numba, robosuite): workers only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from science.robots.engine import EngineError
from science.robots.engine.arm import Arm
from science.robots.engine.fingers import Fingers
from science.robots.engine.observed import OBJECT_MODALITY, PROPRIOCEPTION, switch_off_others
from science.robots.engine.sampling_clock import SamplingClock
from science.robots.engine.self_check import require_equal_torques
from science.robots.engine.supported import ARM, GRIPPER, require_supported, require_supported_episode

OBJECT = f"{OBJECT_MODALITY}-state"


class ExactEngine:
    """Steps a robosuite environment of one Panda under OSC_POSE in place of ``env.step``.

    The physics state stays in ``env.sim``: external forces and edits of positions (followed by ``sim.forward()``) made
    between steps act as they do under robosuite, and ``env.step`` may be mixed with `step`. Observables that no step
    returns (joint angles and the like) are switched off in the environment.
    """

    def __init__(self, env: Any) -> None:
        """Bind to an environment made with ignore_done=True and without cameras.

        Raises
        ------
        EngineError
            For anything on which the step could differ from robosuite's, found by asking or by comparing torques with
            robosuite's own controller in random states on this machine.
        """
        require_supported(env)
        require_equal_torques(env)
        switch_off_others(env)
        self._env = env
        self._bind()

    def _bind(self) -> None:
        """Take hold of the simulation and controllers, which a reset replaces."""
        env = self._env
        require_supported_episode(env)
        robot = env.robots[0]
        self._sim, self._composite = env.sim, robot.composite_controller
        model, data = env.sim.model._model, env.sim.data._data
        parts, actuators = self._composite.part_controllers, robot._ref_actuators_indexes_dict
        self._fingers = Fingers(model, robot.gripper[ARM], parts[GRIPPER], actuators[GRIPPER])
        self._arm = Arm(model, data, parts[ARM], actuators[ARM], self._fingers)
        self._substeps = int(env.control_timestep / env.model_timestep)
        self._proprioception = [(name, env._observables[name]) for name in PROPRIOCEPTION]
        self._objects = [seen for seen in env._observables.values() if seen.modality == OBJECT_MODALITY]

    def reset(self) -> dict[str, np.ndarray]:
        """Follow an ``env.reset()``, hard or soft; returns `observations`.

        Raises
        ------
        EngineError
            If the reset made something that the engine does not support.
        """
        self._bind()
        return self.observations()

    def resync(self) -> None:
        """After a state was written: the controllers read it at the next step instead of what they read before."""
        for controller in self._env.robots[0].part_controllers.values():
            controller.new_update = True

    def observations(self) -> dict[str, np.ndarray]:
        """What robosuite observed last, equal to those entries of ``env._get_observations()``.

        robot0_eef_pos [3] m, robot0_eef_quat [4] xyzw, robot0_gripper_qpos [2] m, object-state [k].
        """
        found = {name: seen.obs for name, seen in self._proprioception}
        found[OBJECT] = np.concatenate(
            [np.atleast_1d(seen.obs) for seen in self._objects if seen.is_enabled() and seen.is_active()]
        )
        return found

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Do to the simulation, controllers, clock and observables what ``env.step(action)`` does.

        ``action`` ``[7]`` float64, clipped to [-1, 1]. Returns `observations`.

        Raises
        ------
        EngineError
            For an action of another shape or not finite, a terminated episode, or observables of different rates.
        """
        env = self._env
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise EngineError(f"engine exact: found the action {action!r}, expected 7 finite numbers")
        if env.done:
            raise EngineError("engine exact: the episode has terminated; call env.reset(), then reset()")
        if env.sim is not self._sim or env.robots[0].composite_controller is not self._composite:
            self._bind()
        env.timestep += 1
        self._physics(action)
        env.cur_time += env.control_timestep
        return self.observations()

    def _physics(self, action: np.ndarray) -> None:
        """All substeps, halted where robosuite samples its observables: as a rule once, after the last one."""
        clock = SamplingClock(self._env)
        self._fingers.command(action[6:])
        n_substeps, samples = clock.advance(self._substeps)
        self._arm.run_to(action[:6], n_substeps)
        left = self._substeps - n_substeps
        while samples:
            clock.sample()
            n_substeps, samples = clock.advance(left)
            if n_substeps:
                self._arm.run(n_substeps)
            left -= n_substeps
        clock.leave()
        self._arm.leave()
        self._fingers.leave()
