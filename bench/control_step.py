"""CPU time of a control step: MuJoCo alone, robosuite, and the exact engine, on the same trajectories.

    python bench/control_step.py [--episodes 5] [--steps 60]

Every episode is run three times: robosuite's ``env.step`` under random actions that grip now and then; the exact engine
under the same actions; and MuJoCo alone, `mj_step` x 25 under the torques that were recorded. The three take turns, so
that a busy machine slows all of them, and must end in the same state, bit for bit.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mujoco
import numpy as np
import robosuite

from science.robots.engine.exact import ExactEngine

TASKS = ("Lift", "Stack")


def make(task: str) -> Any:
    return robosuite.make(
        task,
        robots="Panda",
        controller_configs=robosuite.load_composite_controller_config(robot="Panda"),
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
        control_freq=20,
        hard_reset=False,
        seed=0,  # Lift draws the cube's size when it is made
    )


def begin(env: Any, seed: int) -> None:
    env.rng = env.placement_initializer.rng = np.random.default_rng(seed)
    env.reset()


def actions(seed: int, steps: int) -> np.ndarray:
    """Drifting motion ``[steps, 7]`` that descends to the table and closes the gripper half-way."""
    rng = np.random.default_rng(seed)
    drawn = np.clip(rng.normal(0, 0.3, (steps, 7)), -1, 1)
    drawn[:, 2] -= 0.3
    drawn[:, 6] = np.where(np.arange(steps) < steps // 2, -1, 1)
    return np.clip(drawn, -1, 1)


def recorded_torques(env: Any, seed: int, chosen: np.ndarray) -> np.ndarray:
    """The ctrl of every substep ``[steps * 25, nu]`` under robosuite."""
    begin(env, seed)
    sim, seen = env.sim, []

    def recording() -> None:
        seen.append(np.array(sim.data.ctrl))
        type(sim).step2(sim)

    sim.step2 = recording
    for action in chosen:
        env.step(action)
    del sim.step2
    return np.array(seen)


def cpu_ms(task: str, episodes: int, steps: int) -> dict[str, float]:
    """CPU milliseconds of a control step by engine."""
    envs = {"mj_step x 25": make(task), "robosuite": make(task), "exact": make(task)}
    engine = ExactEngine(envs["exact"])
    spent = dict.fromkeys(envs, 0.0)
    for seed in range(episodes):
        chosen = actions(seed, steps)
        torques = recorded_torques(envs["mj_step x 25"], seed, chosen)
        ends = {}
        for name, env in envs.items():
            begin(env, seed)
            engine.reset()
            model, data = env.sim.model._model, env.sim.data._data
            started = time.process_time()
            if name == "robosuite":
                for action in chosen:
                    env.step(action)
            elif name == "exact":
                for action in chosen:
                    engine.step(action)
            else:
                ctrl = data.ctrl
                for torque in torques:
                    ctrl[:] = torque
                    mujoco.mj_step(model, data)
            spent[name] += time.process_time() - started
            ends[name] = np.concatenate([data.qpos, data.qvel]).tobytes()
        if len(set(ends.values())) != 1:
            raise SystemExit(f"{task}, seed {seed}: the engines ended in different states")
    for env in envs.values():
        env.close()
    return {name: 1000 * seconds / (episodes * steps) for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    started = time.process_time()
    warm = make("Lift")
    made = time.process_time()
    ExactEngine(warm)
    bound = time.process_time()
    print(f"robosuite's first environment {made - started:.1f} CPU-s; ExactEngine on it {bound - made:.1f} CPU-s\n")
    print("| task | control step by | CPU-ms | share of MuJoCo's speed |")
    print("|---|---|---:|---:|")
    for task in TASKS:
        found = cpu_ms(task, chosen.episodes, chosen.steps)
        raw = found["mj_step x 25"]
        for name, milliseconds in found.items():
            print(f"| {task} | {name} | {milliseconds:.2f} | {raw / milliseconds:.2f} |")


if __name__ == "__main__":
    main()
