"""Evaluation end to end: four workers with five episodes each beside one worker with all twenty, asking one server.

    python bench/evaluation.py [--episodes 20] [--steps 100] [--rounds 2]

The policy is tiny_vla after one gradient step on two demonstrations of each task of the suite `open`: what it costs
does not depend on what it learned, and no episode ends early. Server and workers are warm; both numbers of workers take
turns. Shares are of the time of episodes: waiting for the server (queue and inference), the way there and back, and
physics; the rest is the evaluator's. Every episode must be the same with four workers as with one, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from science.robots.demonstrations import record_demonstrations, write_demonstrations
from science.robots.policies.scripted import make_expert
from science.robots.rollouts.episode import Episode
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.seeds import DEMONSTRATION, take
from science.robots.serving.process import ServerProcess
from science.robots.tasks.base import Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.open_suite import SUITE
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.training import train

WORKERS = (1, 4)


@dataclass(frozen=True)
class Round:
    """One evaluation: its episodes and its wall seconds."""

    episodes: dict[int, Episode]
    wall_s: float

    @property
    def per_minute(self) -> float:
        return 60 * len(self.episodes) / self.wall_s

    def shares(self) -> tuple[float, float, float]:
        """Of the episodes' time: server, transport, physics."""
        wall = waited = served = physics = 0.0
        for each in self.episodes.values():
            assert each.policy_s is not None and each.server_s is not None and each.simulation_s is not None
            wall, waited = wall + each.wall_s, waited + each.policy_s
            served, physics = served + each.server_s, physics + each.simulation_s
        return served / wall, (waited - served) / wall, physics / wall


def checkpoint(task: Task, folder: Path) -> Path:
    """tiny_vla after one gradient step."""
    simulation = make_simulation(task)
    recorded = record_demonstrations(simulation, make_expert(task), take(DEMONSTRATION, 20), 2)
    path = folder / f"{task.key}.hdf5"
    write_demonstrations(path, recorded.demonstrations, simulation.env_args(), seed=0, attributes=recorded.attributes)
    simulation.close()
    return train(TinyVlaConfig(steps=1), {task.key: path}, folder / task.key).checkpoints[1]


def run(pool: RolloutPool, request: RolloutRequest, seeds: list[int]) -> Round:
    found: dict[int, Episode] = {}
    began_s = time.perf_counter()
    pool.run(request, [(seed, "control") for seed in seeds], lambda each: found.update({each.seed: each}))
    assert not [each.error for each in found.values() if each.error]
    return Round(found, time.perf_counter() - began_s)


def row(task: Task, folder: Path, n: int, steps: int, rounds: int) -> str:
    weights = checkpoint(task, folder)
    with ServerProcess("tiny_vla", task.key, weights) as server:
        request = RolloutRequest(task.key, "tiny_vla", checkpoint=weights, horizon_steps=steps, server=server.address)
        pools = {workers: RolloutPool(workers) for workers in WORKERS}
        done: dict[int, list[Round]] = {workers: [] for workers in WORKERS}
        for workers, pool in pools.items():
            run(pool, request, list(range(workers)))
        for _ in range(rounds):
            for workers, pool in pools.items():
                done[workers].append(run(pool, request, list(range(n))))
        for pool in pools.values():
            pool.close()
    one, four = (done[workers][-1].episodes for workers in WORKERS)
    assert all(one[seed].trajectory_hash == four[seed].trajectory_hash for seed in one), "episodes differ"
    rates = {workers: statistics.median(each.per_minute for each in done[workers]) for workers in WORKERS}
    speed_up = statistics.median(b.per_minute / a.per_minute for a, b in zip(*done.values(), strict=True))
    shares = " | ".join(f"{share:.0%}" for workers in WORKERS for share in done[workers][-1].shares())
    return f"| {task.key} | {rates[1]:.0f} | {rates[4]:.0f} | {speed_up:.2f} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(f"{options.episodes} episodes of {options.steps} steps, medians of {options.rounds} rounds, warm")
    print(f"(load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)\n")
    print(
        "| task | 1 worker, episodes/min | 4 workers, episodes/min | ratio | 1: server | transport | physics "
        "| 4: server | transport | physics |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for task in SUITE.tasks.values():
            print(row(task, Path(folder), options.episodes, options.steps, options.rounds), flush=True)


if __name__ == "__main__":
    main()
