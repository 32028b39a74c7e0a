"""Throughput of rollouts: the pool beside a bare robosuite loop, two workers beside one, and what a reset costs.

    python bench/rollouts.py [--episodes 16] [--steps 100] [--rounds 3]

The bare loop is `env.reset` and `env.step` under the very same random actions, in a process of its own; the pool also
records states and milestones, judges success and sends every episode to its parent. Both are counted in CPU seconds of
the process that simulates, warm, taking turns, so that a busy machine slows both. Two workers are held against one in
wall time, which needs two idle cores; the share of their time in which workers have work is the pool's own part in
that, whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil

from science.robots.rollouts.episode import Episode
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.tasks.base import ROBOSUITE
from science.robots.tasks.registry import find_task

TASKS = {"open.Lift": "Lift", "open.Stack_D0": "Stack"}
RESETS = 20


def make(name: str, hard_reset: bool):
    # robosuite warns at every import of robots and solvers that nothing here uses
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    import robosuite

    return robosuite.make(
        name,
        robots="Panda",
        controller_configs=robosuite.load_composite_controller_config(robot="Panda"),
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
        control_freq=20,
        hard_reset=hard_reset,
    )


def bare_loop() -> None:
    """Child process: a round of episodes for every line that comes in, answered with its CPU seconds."""
    env = None
    for line in sys.stdin:
        asked = json.loads(line)
        if env is None:
            env = make(asked["environment"], asked["hard_reset"])
        began_s = time.process_time()
        for seed in asked["seeds"]:
            env.rng = env.placement_initializer.rng = rng = np.random.default_rng(seed)
            env.reset()
            rng = np.random.default_rng(seed)
            for _ in range(asked["steps"]):
                env.step(rng.uniform(-1.0, 1.0, 7))
        print(json.dumps(time.process_time() - began_s), flush=True)


class BareLoop:
    """The bare loop's process."""

    def __init__(self, environment: str):
        self.common = {"environment": environment, "hard_reset": environment == "Lift"}
        command = [sys.executable, "-W", "ignore", __file__, "--bare"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def cpu_s(self, seeds: list[int], steps: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(self.common | {"seeds": seeds, "steps": steps}) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))


def worker_cpu_s(pool: RolloutPool) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pool.pids]
    return sum(each.user + each.system for each in times)


@dataclass(frozen=True)
class Round:
    """CPU seconds of the workers, wall seconds, control steps, and the share of their time that workers had work."""

    cpu_s: float
    wall_s: float
    steps: int
    busy: float


def run(pool: RolloutPool, request: RolloutRequest, seeds: list[int]) -> Round:
    found: list[Episode] = []
    cpu_s, began_s = worker_cpu_s(pool), time.perf_counter()
    pool.run(request, [(seed, "control") for seed in seeds], found.append)
    assert not [episode.error for episode in found if episode.error]
    wall_s = time.perf_counter() - began_s
    busy = sum(episode.wall_s for episode in found) / (wall_s * len(pool.pids))
    return Round(worker_cpu_s(pool) - cpu_s, wall_s, sum(episode.steps for episode in found), busy)


def share(task: str, episodes: int, steps: int, rounds: int) -> str:
    """A row of the first table: a worker beside the bare loop."""
    seeds = list(range(episodes))
    engines = list(reversed(find_task(task).engines))
    bare = BareLoop(TASKS[task])
    bare.cpu_s(seeds[:1], steps)
    rate: dict[str, list[float]] = {"bare": [], **{engine: [] for engine in engines}}
    pools = {engine: RolloutPool(1) for engine in engines}
    requests = {engine: RolloutRequest(task, "random", engine=engine, horizon_steps=steps) for engine in engines}
    for engine, pool in pools.items():
        run(pool, requests[engine], seeds[:1])
    for _ in range(rounds):
        rate["bare"].append(episodes * steps / bare.cpu_s(seeds, steps))
        for engine, pool in pools.items():
            done = run(pool, requests[engine], seeds)
            rate[engine].append(done.steps / done.cpu_s)
    for pool in pools.values():
        pool.close()
    bare.process.kill()
    bare.process.wait()
    median = {name: statistics.median(values) for name, values in rate.items()}
    return "\n".join(
        f"| {task} | {engine} | {median['bare']:.0f} | {median[engine]:.0f} "
        f"| {statistics.median(np.divide(rate[engine], rate['bare'])):.2f} |"
        for engine in engines
    )


def scaling(task: str, episodes: int, steps: int, rounds: int) -> str:
    """The row of the second table: two workers beside one."""
    request = RolloutRequest(task, "random", engine=ROBOSUITE, horizon_steps=steps)
    seeds = list(range(episodes))
    starts: list[str] = []
    done: dict[int, list[Round]] = {1: [], 2: []}
    with RolloutPool(1) as one, RolloutPool(2) as two:
        for pool, n in ((one, 1), (two, 2)):
            started = run(pool, request, seeds[:n])
            starts.append(f"{started.wall_s:.1f} s wall, {worker_cpu_s(pool):.1f} CPU-s")
        for _ in range(rounds):
            for pool, n in ((one, 1), (two, 2)):
                done[n].append(run(pool, request, seeds))
    speed_up = statistics.median(alone.wall_s / both.wall_s for alone, both in zip(done[1], done[2], strict=True))
    walls = " | ".join(f"{statistics.median(each.wall_s for each in done[n]):.1f}" for n in (1, 2))
    busy = statistics.median(each.busy for each in done[2])
    return f"| {task} | {walls} | {speed_up:.2f} | {busy:.3f} | {' / '.join(starts)} |"


def resets(name: str) -> str:
    """A row of the third table: milliseconds of CPU a reset, hard and soft."""
    spent = {}
    for hard in (True, False):
        env = make(name, hard)
        env.reset()
        began_s = time.process_time()
        for _ in range(RESETS):
            env.reset()
        spent[hard] = (time.process_time() - began_s) / RESETS * 1000
        env.close()
    return f"| {name} | {spent[True]:.1f} | {spent[False]:.1f} | {spent[True] / spent[False]:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_loop()
        return
    counts = (arguments.episodes, arguments.steps, arguments.rounds)
    print(f"{counts[0]} episodes of {counts[1]} steps under random actions, medians of {counts[2]} rounds, warm\n")
    print("| task | engine | bare loop, steps a CPU-s | pool, steps a CPU-s of a worker | pool / bare |")
    print("|---|---|---:|---:|---:|")
    for task in TASKS:
        print(share(task, *counts), flush=True)
    print("\nWanted: pool / bare >= 0.9.\n")
    print(
        "| task | 1 worker, s | 2 workers, s | speed-up | both have work | start-up of 1 / 2 workers, an episode each |"
    )
    print("|---|---:|---:|---:|---:|---|")
    print(scaling("open.Stack_D0", *counts), flush=True)
    print(f"\nWanted: speed-up >= 1.8. Load of the machine was {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n")
    print("| robosuite's | hard reset, CPU-ms | soft reset, CPU-ms | hard / soft |\n|---|---:|---:|---:|")
    for name in TASKS.values():
        print(resets(name), flush=True)


if __name__ == "__main__":
    main()
