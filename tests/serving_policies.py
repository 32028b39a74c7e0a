"""Small policies to serve, for tests: one with noise and chunks, one with memory, and ones that misbehave.

They are entry points of no package: `serve_here` serves them in this process, `serving_main.py` in one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from science.robots.policies.base import Policy
from science.robots.policies.batched import BatchedPolicy, Row, Sessions
from science.robots.serving.server import PolicyServer
from science.robots.tasks.base import Observation

IDENTITY = {"policy": "small", "policy_version": "1", "task": "open.Lift", "checkpoint_hash": "abc"}


class Small(BatchedPolicy):
    """Chunks that depend on the observation, the noise and the prompt; element 0 of ``x`` makes it misbehave."""

    observation: Mapping[str, int] = {"x": 3}
    action_dim = 2
    horizon_steps = 4
    replan_steps = 2
    noise_shape = (4, 2)
    prompt = "do it"
    RAISES, NAN, SLOW = 666.0, 777.0, 888.0

    def __init__(self, cost_s: float = 0.0, warm_up_s: float = 0.0) -> None:
        self.cost_s, self.warm_up_s = cost_s, warm_up_s
        self.batches: list[int] = []
        self.forgotten: list[str] = []

    def warm_up(self, n_rows: int) -> None:
        time.sleep(self.warm_up_s)
        super().warm_up(n_rows)
        self.batches.clear()

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        self.batches.append(len(rows))
        first = [row.observation["x"][0] for row in rows]
        time.sleep(self.cost_s + (0.3 if self.SLOW in first else 0.0))
        if self.RAISES in first:
            raise FloatingPointError("a row that no policy can bear")
        found = np.stack(
            [0.1 * row.noise + 0.01 * np.sum(row.observation["x"]) + 0.001 * len(row.prompt) for row in rows]
        )
        found[[value == self.NAN for value in first]] = np.nan
        return np.tanh(found)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


class Gated(Small):
    """Computes `Small.SLOW` until it is let go, and says when it does."""

    def __init__(self) -> None:
        super().__init__()
        self.computes, self.let_go = threading.Event(), threading.Event()

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        if any(row.observation["x"][0] == self.SLOW for row in rows):
            self.computes.set()
            assert self.let_go.wait(60)
        return super().infer(rows)


class Remembering(Policy):
    """Its action is a decaying sum of all that it saw, and its seed's noise."""

    observation: Mapping[str, int] = {"x": 3}
    action_dim = 2

    def start(self, seed: int) -> None:
        self.generator, self.sum = np.random.default_rng(seed), np.zeros(2)

    def act(self, observation: Observation) -> np.ndarray:
        self.sum = 0.9 * self.sum + observation["x"][:2]
        return np.tanh(0.01 * self.sum + 0.1 * self.generator.standard_normal(2))


POLICIES = {"small": Small, "remembering": lambda: Sessions(Remembering())}


@contextmanager
def serve_here(policy: BatchedPolicy, **options):
    """A server in a thread of this process: its address, and itself."""
    told: dict = {}
    ready = threading.Event()

    async def serve() -> None:
        told["server"] = server = PolicyServer(policy, IDENTITY, **options)
        told["loop"] = asyncio.get_running_loop()

        def listening(port: int) -> None:
            told["address"] = f"ws://127.0.0.1:{port}"
            ready.set()

        await server.run("127.0.0.1", 0, listening)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    try:
        yield told["address"], told["server"]
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended already
            told["loop"].call_soon_threadsafe(told["server"].drain)
        thread.join(60)
        assert not thread.is_alive()


if __name__ == "__main__":  # NAME PORT READY: serve in a process that can be killed
    name, port, ready_file = sys.argv[1:]

    async def main() -> None:
        server = PolicyServer(POLICIES[name](), IDENTITY)
        await server.run("127.0.0.1", int(port), lambda _: Path(ready_file).write_text("ready"), kept_port=True)

    asyncio.run(main())
