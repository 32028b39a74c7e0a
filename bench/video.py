"""Pictures of an episode: replay of its stored states beside a robosuite environment with a camera.

    python bench/video.py [--episodes 4] [--steps 60] [--size 256]

CPU milliseconds a frame of whole episodes of Stack, one camera, reset included, after one episode of warm-up; every row
is a process of its own. The camera environments are stock robosuite (`has_offscreen_renderer`, `use_camera_obs`), with
its default reset, which loads the model anew, and with the cheap one; they draw with the model's multisampling and
reflections, replay without. Replay renders what a rollout without cameras stored; the rollout itself stands in a row of
its own, so that both ways to a video can be added up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

TASK, ENVIRONMENT, CAMERA = "open.Stack_D0", "Stack", "agentview"


def cpu_ms(episode: Callable[[int], int], n_episodes: int) -> float:
    """CPU ms a frame over ``n_episodes`` after one warm-up; ``episode(seed)`` returns its number of frames."""
    episode(0)
    started = time.process_time()
    frames = sum(episode(seed) for seed in range(1, n_episodes + 1))
    return (time.process_time() - started) * 1e3 / frames


def actions(n_steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (n_steps, 7))


def camera_environment(options: argparse.Namespace, hard_reset: bool) -> float:
    import robosuite

    environment = robosuite.make(
        ENVIRONMENT,
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=CAMERA,
        camera_heights=options.size,
        camera_widths=options.size,
        control_freq=20,
        ignore_done=True,
        hard_reset=hard_reset,
    )
    key = f"{CAMERA}_image"

    def episode(seed: int) -> int:
        pictures = [environment.reset()[key], *(environment.step(action)[0][key] for action in actions(options.steps))]
        assert all(picture.std() > 1 for picture in pictures)
        return len(pictures)

    return cpu_ms(episode, options.episodes)


def rollout(options: argparse.Namespace) -> float:
    from science.robots.tasks.registry import find_task

    simulation = find_task(TASK).make("robosuite")

    def episode(seed: int) -> int:
        return len(states_of(simulation, seed, options.steps))

    return cpu_ms(episode, options.episodes)


def states_of(simulation, seed: int, n_steps: int) -> np.ndarray:
    simulation.reset(seed)
    states = [simulation.state()]
    for action in actions(n_steps):
        simulation.step(action)
        states.append(simulation.state())
    return np.array(states)


def replay(options: argparse.Namespace) -> float:
    from science.robots.rendering import SceneRenderer, choose_gl
    from science.robots.tasks.registry import find_task
    from science.robots.video import render_episode

    simulation = find_task(TASK).make("robosuite")
    recorded = {seed: states_of(simulation, seed, options.steps) for seed in range(options.episodes + 1)}
    with SceneRenderer(options.size, options.size, choose_gl()) as renderer:

        def episode(seed: int) -> int:
            frames = list(render_episode(simulation, renderer, seed, recorded[seed], camera=CAMERA))
            assert all(frame.std() > 1 for frame in frames)
            return len(frames)

        return cpu_ms(episode, options.episodes)


ROWS: dict[str, Callable[[argparse.Namespace], float]] = {
    "robosuite with a camera, default reset": lambda options: camera_environment(options, hard_reset=True),
    "robosuite with a camera, soft reset": lambda options: camera_environment(options, hard_reset=False),
    "rollout without cameras": rollout,
    "replay of stored states": replay,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(ROWS[options.row](options)))
        return
    environment = {**os.environ, "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    found = {}
    for row in ROWS:
        command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--row", row]
        ended = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[row] = json.loads(ended.stdout.splitlines()[-1])
    ours = found["replay of stored states"]
    print(f"{options.episodes} episodes of {options.steps} steps, {options.size} x {options.size} pixels\n")
    print("| episode | CPU ms a frame, reset included | over replay |")
    print("|---|---:|---:|")
    for row, value in found.items():
        print(f"| {row} | {value:.1f} | {value / ours:.1f} |")


if __name__ == "__main__":
    main()
