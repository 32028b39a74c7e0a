"""Many episodes in warm worker processes: one hangs, one dies, and the others do not notice.

A worker imports simulator and policy once (8 s of CPU and more) and is then handed one episode at a time, so that long
ones are spread. An episode that passes its time limit is an `error`, and its worker is replaced. An episode whose
worker dies is run again, and is an `error` when it kills a second one. Since an episode is its seed, what comes back
does not depend on the number of workers, on their order, or on which of them died.

What could not start at all - unknown task, bad checkpoint, a policy that does not fit - is one `RolloutError`.
"""

from __future__ import annotations

import multiprocessing.connection
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from science.robots.perturbations import find_perturbation
from science.robots.policies.base import PolicySpec
from science.robots.rollouts.episode import Episode, lost_episode
from science.robots.rollouts.worker_process import WorkerProcess

TIME_LIMIT_S = 300.0
START_LIMIT_S = 600.0
DEATHS_AN_EPISODE = 2

_LOOK_S = 1.0

OnEpisode = Callable[[Episode], None]


class RolloutError(RuntimeError):
    """A request of which no episode can be run."""


@dataclass(frozen=True)
class RolloutRequest:
    """A policy on a task: all that a worker must build.

    Attributes
    ----------
    task : key ``<suite>.<name>``.
    policy : name of the policy.
    checkpoint : its file; None for a policy that is not trained.
    engine : control step; None for the one that the task prefers.
    horizon_steps : after which an episode ends; None for the task's own.
    policy_spec : the policy itself, where it is no registered one.
    load : ``module:function`` that is called with the request and makes the simulation in place of the task's own.
    server : ``ws://host:port`` of a policy server that has this policy and checkpoint and answers for the worker; None
        where the worker loads the policy itself. An episode does not depend on it. Its key is in the environment.
    """

    task: str
    policy: str
    checkpoint: Path | None = None
    engine: str | None = None
    horizon_steps: int | None = None
    policy_spec: PolicySpec | None = None
    load: str | None = None
    server: str | None = None


def run_rollouts(
    request: RolloutRequest,
    episodes: Iterable[tuple[int, str]],
    *,
    workers: int,
    on_episode: OnEpisode,
    time_limit_s: float = TIME_LIMIT_S,
) -> None:
    """Run the episodes ``(seed, arm)`` in ``workers`` processes of their own; see `RolloutPool.run`."""
    with RolloutPool(workers) as pool:
        pool.run(request, episodes, on_episode, time_limit_s=time_limit_s)


class RolloutPool:
    """Worker processes that stay warm between runs, whatever the request; used as a context.

    Leaving the context ends every worker at once, also when an exception leaves it; when this process is killed, the
    kernel ends them.
    """

    def __init__(self, workers: int, environment: Mapping[str, str] | None = None):
        """``environment`` is that of the workers; default: this process's own."""
        if workers < 1:
            raise ValueError(f"found {workers} workers, expected at least one")
        self._n_workers = workers
        self._environment = environment
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there now."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End every worker."""
        while self._workers:
            self._workers.pop().kill()

    def run(
        self,
        request: RolloutRequest,
        episodes: Iterable[tuple[int, str]],
        on_episode: OnEpisode,
        *,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """Run every episode ``(seed, arm)`` once and call ``on_episode`` with each as it ends, in any order.

        Whatever is raised, also by ``on_episode``, ends all workers.

        Raises
        ------
        RolloutError
            When a worker cannot start, or cannot build what the request asks for.
        PerturbationError
            For an arm that does not exist; nothing is run then.
        """
        waiting = deque(episodes)
        for arm in {arm for _, arm in waiting}:
            find_perturbation(arm)
        try:
            run = _Run(self._workers, self._n_workers, self._environment, request, waiting, on_episode, time_limit_s)
            run.to_the_end()
        except BaseException:  # also when interrupted: workers hold episodes that nobody would collect
            self.close()
            raise


class _Run:
    """One call of `RolloutPool.run`."""

    def __init__(
        self,
        workers: list[WorkerProcess],
        n_workers: int,
        environment: Mapping[str, str] | None,
        request: RolloutRequest,
        waiting: deque[tuple[int, str]],
        on_episode: OnEpisode,
        time_limit_s: float,
    ):
        self.workers, self.n_workers, self.request, self.waiting = workers, n_workers, request, waiting
        self.environment, self.on_episode, self.time_limit_s = environment, on_episode, time_limit_s
        self.deaths: Counter[tuple[int, str]] = Counter()

    def to_the_end(self) -> None:
        """Hand out, listen, replace, until nothing is waiting or at work."""
        while True:
            self._hand_out()
            busy = [worker for worker in self.workers if worker.busy]
            if not busy:
                return
            patience_s = max(0.0, min(_LOOK_S, min(worker.deadline_s for worker in busy) - time.monotonic()))
            heard = multiprocessing.connection.wait([worker.connection for worker in busy], patience_s)
            for worker in busy:
                # A child that a policy forked may hold the connection open, so a death is looked for as well.
                if worker.connection in heard or worker.process.poll() is not None:
                    self._listen(worker)
                elif time.monotonic() > worker.deadline_s:
                    self._give_up(worker)

    def _hand_out(self) -> None:
        for worker in [each for each in self.workers if not each.busy and each.process.poll() is not None]:
            self._remove(worker)  # it was killed while it had nothing to do
        idle = [worker for worker in self.workers if not worker.busy]
        n_new = min(self.n_workers - len(self.workers), len(self.waiting) - len(idle))
        for _ in range(n_new):
            self.workers.append(WorkerProcess(self.environment))
        for worker in self.workers:
            self._give_work(worker)

    def _give_work(self, worker: WorkerProcess) -> None:
        if worker.busy or not self.waiting:
            return
        if worker.request != self.request:
            worker.request = None
            worker.send(("prepare", self.request), START_LIMIT_S)
            return
        worker.episode = self.waiting.popleft()
        worker.send(("episode", *worker.episode), self.time_limit_s)

    def _listen(self, worker: WorkerProcess) -> None:
        if not worker.connection.poll():
            self._bury(worker)
            return
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "unusable":
            raise RolloutError(f"no episode of {self._what()} can be run: {content}")
        worker.busy, worker.episode = False, None
        if kind == "ready":
            worker.request, worker.engine = self.request, content
            self._give_work(worker)
            return
        self._give_work(worker)  # before the episode is dealt with, so that the worker does not wait for that
        self.on_episode(content)

    def _bury(self, worker: WorkerProcess) -> None:
        """A worker died: its episode is run again, unless it has killed enough of them."""
        ending, episode = worker.ending(), worker.episode
        self._remove(worker)
        if episode is None:
            raise RolloutError(f"no episode of {self._what()} can be run: a worker died as it started, {ending}")
        self.deaths[episode] += 1
        if self.deaths[episode] < DEATHS_AN_EPISODE:
            self.waiting.appendleft(episode)
            return
        self._lose(worker, episode, f"WorkerDied: {DEATHS_AN_EPISODE} workers died of this episode, the last {ending}")

    def _give_up(self, worker: WorkerProcess) -> None:
        """A worker passed its time limit."""
        where, episode = worker.where(), worker.episode
        self._remove(worker)
        if episode is None:
            raise RolloutError(
                f"no episode of {self._what()} can be run: a worker did not start within {START_LIMIT_S:g} s{where}"
            )
        self._lose(worker, episode, f"TimeLimit: the episode did not end within {self.time_limit_s:g} s{where}")

    def _lose(self, worker: WorkerProcess, episode: tuple[int, str], error: str) -> None:
        seed, arm = episode
        self.on_episode(lost_episode(seed, arm, error, time.monotonic() - worker.began_s, worker.engine))

    def _remove(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        worker.kill()

    def _what(self) -> str:
        return f"policy {self.request.policy!r} on task {self.request.task}"
