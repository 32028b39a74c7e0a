"""A worker of the pool: a process that holds one simulation and one policy and runs the episodes that it is handed.

    python -m science.robots.rollouts.worker DESCRIPTOR PARENT_PID

It talks with `pool.py` over the socket DESCRIPTOR; what policies and simulators print goes to its log. It ends when the
parent does. Messages in: ("prepare", request), ("episode", seed, arm). Messages out: ("ready", engine),
("unusable", why), ("episode", Episode). mujoco, robosuite and torch are imported here, when the first request is
prepared.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from science.robots.cameras import Cameras
from science.robots.parent import end_with_parent
from science.robots.policies.base import Policy
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import run_episode
from science.robots.tasks.base import Simulation, Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import find_task, require_available

if TYPE_CHECKING:
    from science.robots.rollouts.pool import RolloutRequest


def build_simulation(request: RolloutRequest) -> Simulation:
    """The request's simulation: of its task and engine, or what its ``load`` makes of it.

    Raises
    ------
    TaskError
        For a task that does not exist or cannot run here, or an engine that was not verified for it.
    """
    if request.load is not None:
        module, _, name = request.load.partition(":")
        make: Callable[[RolloutRequest], Simulation] = getattr(import_module(module), name)
        return make(request)
    task = find_task(request.task)
    require_available(task)
    return make_simulation(task, request.engine)


def build_policy(request: RolloutRequest, task: Task) -> Policy:
    """The request's policy: loaded here, or asked of the server that the request names.

    Raises
    ------
    PolicyError
        For a policy that does not exist or does not fit the task, or a server that has another one.
    """
    spec = request.policy_spec or find_policy(request.policy)
    if request.server is None:
        return spec.make(task, request.checkpoint)
    from science.robots.serving.rollouts import served_policy

    return served_policy(request.server, spec, task, request.checkpoint)


class _Bench:
    """What is built so far: a new request builds anew only what differs."""

    def __init__(self) -> None:
        self.request: RolloutRequest | None = None
        self.simulation: Simulation | None = None
        self.policy: Policy | None = None
        self.cameras: Cameras | None = None

    def prepare(self, request: RolloutRequest) -> str:
        """Build what the request asks for; returns the engine's name."""
        if self.simulation is None or self.request is None or _of_simulation(request) != _of_simulation(self.request):
            self.request = None
            self._close_cameras()
            if self.simulation is not None:
                self.simulation.close()
            self.simulation = build_simulation(request)
        self.policy = build_policy(request, self.simulation.task)
        if self.cameras is None or self.cameras.sizes != dict(self.policy.cameras):
            self._close_cameras()
            self.cameras = Cameras(self.simulation, self.policy.cameras)
        self.request = request
        return self.simulation.engine

    def _close_cameras(self) -> None:
        if self.cameras is not None:
            self.cameras.close()
            self.cameras = None


def _of_simulation(request: RolloutRequest) -> RolloutRequest:
    """The request without what has no part in its simulation."""
    return replace(request, policy="", policy_spec=None, checkpoint=None, horizon_steps=None, server=None)


def serve(connection: Connection) -> None:
    """Answer messages until the parent is gone."""
    bench = _Bench()
    while True:
        try:
            kind, *content = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if kind == "prepare":
            try:
                connection.send(("ready", bench.prepare(content[0])))
            except BaseException as error:
                connection.send(("unusable", f"{type(error).__name__}: {error}"))
                raise
        else:
            assert bench.simulation is not None and bench.policy is not None and bench.request is not None
            seed, arm = content
            episode = run_episode(
                bench.simulation,
                bench.policy,
                seed,
                arm=arm,
                horizon_steps=bench.request.horizon_steps,
                cameras=bench.cameras,
            )
            connection.send(("episode", episode))


def main() -> None:
    """Run the worker."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent_pid)
    os.set_inheritable(descriptor, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the pool asks a worker that hangs where it is
    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
