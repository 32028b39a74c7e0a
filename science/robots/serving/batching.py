"""Rows of many clients, answered in batches by one thread.

A batch goes when the thread is free and waiting for more does not pay: the clients that are expected soonest are waited
for as long as more rows a second are answered with them than without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from science.robots.policies.batched import BatchedPolicy, Row, SessionLost, example_row
from science.robots.serving.protocol import SESSION_LOST
from science.robots.serving.stats import Stats

MAX_BATCH = 32
"""Of a policy that names no sizes."""

Result = TypeVar("Result")

_MEMORY = 0.8  # of what was measured, in its running mean


class RowFailed(ValueError):
    """A row that the policy could not answer, or answered with what is no action."""


@dataclass(eq=False)
class Client:
    """When a client asks: seconds of the monotonic clock.

    Attributes
    ----------
    waiting : it has asked and was not answered.
    answered_s : when it was answered last; None before.
    think_s : running mean of what passes until it asks again.
    """

    waiting: bool = False
    answered_s: float | None = None
    think_s: float | None = None

    def asks(self, now_s: float) -> None:
        """It asks now."""
        self.waiting = True
        if self.answered_s is not None:
            self.think_s = _mean(self.think_s, now_s - self.answered_s)

    def answered(self, now_s: float) -> None:
        """It is answered now."""
        self.waiting, self.answered_s = False, now_s

    def due_s(self, now_s: float) -> float | None:
        """In how many seconds it is expected to ask; None where nothing is known.

        One that is late is expected to need as long again as it is late, so one that stays away is soon given up.
        """
        if self.waiting or self.answered_s is None or self.think_s is None:
            return None
        return abs(self.answered_s + self.think_s - now_s)


@dataclass
class Answer:
    """Actions ``[horizon_steps, action_dim]``, and how they came about."""

    actions: np.ndarray
    queue_s: float
    infer_s: float
    batch_size: int


@dataclass(eq=False)
class _Asked:
    client: Client
    row: Row
    since_s: float
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Answers rows with one policy; `run` it as a task."""

    def __init__(self, policy: BatchedPolicy, stats: Stats, max_batch: int | None = None) -> None:
        self.policy, self.stats = policy, stats
        self.sizes = batch_sizes(policy, max_batch)
        self.clients: set[Client] = set()
        self._waiting: list[_Asked] = []
        self._ended: list[str] = []
        self._arrived = asyncio.Event()
        self._batch_s = 0.0
        self._thread = ThreadPoolExecutor(1, "inference")

    async def warm_up(self) -> None:
        """Compile every batch size, so that nobody waits for it."""
        await self._in_thread(lambda: warm_up(self.policy, self.sizes))

    async def ask(self, client: Client, row: Row, gone: asyncio.Future[None]) -> Answer | None:
        """The answer to a row; None where ``gone`` ends first: the row is then left out of its batch.

        Raises
        ------
        RowFailed, SessionLost
            When it could not be answered.
        """
        asked = _Asked(client, row, time.monotonic())
        client.asks(asked.since_s)
        self._waiting.append(asked)
        self._arrived.set()
        try:
            either: list[asyncio.Future[Any]] = [asked.answer, gone]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not asked.answer.done():
                return None
            return asked.answer.result()
        finally:
            asked.answer.cancel()

    def forget(self, sessions: Sequence[str]) -> None:
        """These sessions are over."""
        self._ended += sessions

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._something_to_do()
            batch, self._waiting = self._waiting[: self.sizes[-1]], self._waiting[self.sizes[-1] :]
            batch = [each for each in batch if not each.answer.cancelled()]
            if not batch:
                continue
            ended, self._ended = self._ended, []
            began_s = time.monotonic()
            answers = await self._in_thread(partial(self._answers, [each.row for each in batch], ended))
            self._batch_s = _mean(self._batch_s or None, time.monotonic() - began_s)
            self._hand_out(batch, answers, began_s)

    async def _something_to_do(self) -> None:
        while True:
            self._waiting = [each for each in self._waiting if not each.answer.cancelled()]
            patience_s = self._patience_s(time.monotonic())
            if self._waiting and patience_s <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), patience_s if self._waiting else None)
            except TimeoutError:
                continue

    def _patience_s(self, now_s: float) -> float:
        """How long to wait for clients that are about to ask.

        ``n`` rows go in a batch of ``t`` seconds, or ``n + k`` rows in ``d + t`` where the ``k``-th client comes in
        ``d``. That a larger batch may take longer is left out: where it does so by much, batching is of no use.
        """
        n, batch_s = len(self._waiting), self._batch_s
        best_s, best_rate = 0.0, n / max(batch_s, 1e-9)
        due = sorted(each for client in self.clients if (each := client.due_s(now_s)) is not None)
        for more, wait_s in enumerate(due[: max(self.sizes[-1] - n, 0)], 1):
            rate = (n + more) / (wait_s + max(batch_s, 1e-9))
            if rate > best_rate:
                best_s, best_rate = wait_s, rate
        return best_s

    def _answers(self, rows: list[Row], ended: Sequence[str]) -> list[np.ndarray | Exception]:
        """In the inference thread: an answer or an error for each row."""
        for session in ended:
            self.policy.forget(session)
        found = self._attempt(rows)
        if isinstance(found, Exception):
            if len(rows) == 1:
                return [found]
            # One of them may be at fault: each is asked once more, alone. For a session it is the same step again.
            self.stats.retried.inc(len(rows))
            return [each for row in rows for each in self._answers([row], ())]
        return [each if np.isfinite(each).all() else _not_finite(each) for each in found]

    def _attempt(self, rows: list[Row]) -> np.ndarray | Exception:
        size = next((size for size in self.sizes if size >= len(rows)), len(rows))
        padded = rows if self.policy.stateful or self.policy.batch_sizes else [*rows, *rows[-1:] * (size - len(rows))]
        # The one place that takes any exception: whatever a policy raises must reach its client, not end the server.
        try:
            found = np.asarray(self.policy.infer(padded))
        except Exception as error:  # noqa: BLE001
            return error
        expected = (len(padded), self.policy.horizon_steps, self.policy.action_dim)
        if found.shape != expected or found.dtype.kind not in "fiu":
            return RowFailed(f"answers of shape {found.shape}, {found.dtype}, expected {expected} numbers")
        return found[: len(rows)]

    def _hand_out(self, batch: list[_Asked], answers: Sequence[np.ndarray | Exception], began_s: float) -> None:
        now_s = time.monotonic()
        infer_s = now_s - began_s
        self.stats.batch_size.observe(len(batch))
        self.stats.infer_s.observe(infer_s)
        for asked, answer in zip(batch, answers, strict=True):
            self.stats.queue_s.observe(began_s - asked.since_s)
            asked.client.answered(now_s)
            if asked.answer.done():  # its client went away meanwhile
                continue
            if isinstance(answer, SessionLost):
                asked.answer.set_exception(SessionLost(f"{SESSION_LOST}: {answer}"))
            elif isinstance(answer, Exception):
                failed = answer if isinstance(answer, RowFailed) else RowFailed(f"{type(answer).__name__}: {answer}")
                asked.answer.set_exception(failed)
            else:
                asked.answer.set_result(Answer(answer, began_s - asked.since_s, infer_s, len(batch)))

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def batch_sizes(policy: BatchedPolicy, max_batch: int | None = None) -> list[int]:
    """Sizes that batches are padded to, ascending: those of the policy, or powers of two.

    Raises
    ------
    ValueError
        When the policy has none that is so small.
    """
    if policy.batch_sizes is None:
        largest = max_batch or MAX_BATCH
        return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]
    sizes = [size for size in policy.batch_sizes if max_batch is None or size <= max_batch]
    if not sizes:
        raise ValueError(
            f"found max_batch {max_batch}, expected at least {min(policy.batch_sizes)}, as the policy has it"
        )
    return sizes


def warm_up(policy: BatchedPolicy, sizes: Sequence[int]) -> None:
    """Have a policy compile what batches of these sizes need; one that keeps state answers its rows one by one."""
    for size in [1] if policy.stateful else sizes:
        policy.warm_up(size)
        for number in range(size):
            policy.forget(example_row(policy, number).session)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else _MEMORY * before + (1 - _MEMORY) * now


def _not_finite(actions: np.ndarray) -> RowFailed:
    n_bad = int((~np.isfinite(actions)).sum())
    return RowFailed(f"the policy gave {n_bad} of {actions.size} elements that are NaN or infinite")
