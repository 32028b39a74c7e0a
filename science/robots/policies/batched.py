"""A policy that answers many episodes at once, with chunks of actions: what a server holds, and what VLAs are.

It and `Policy` (one episode, one action at a time) stand for each other: `ChunkedEpisode` plays a batched policy in one
episode, `Sessions` answers many episodes with a policy that keeps the state of one. `PolicySpec.make` and
`PolicySpec.make_batched` give whichever of the two is wanted.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from science.robots.policies.base import Policy, PolicyError
from science.robots.tasks.base import Observation

SESSIONS_KEPT = 1024

_NOISE_STREAM = 0x61637469


class SessionLost(PolicyError):
    """A step of an episode whose earlier steps this policy has not seen: it must be shown them again, from step 0."""


@dataclass(frozen=True, eq=False)
class Row:
    """What one episode asks.

    Attributes
    ----------
    session : names the episode among all that the policy answers.
    seed : the episode's seed.
    step : control steps taken before this observation.
    observation : key -> ``[k]`` float for what `BatchedPolicy.observation` names, ``<camera>_image`` ->
        ``[height, width, 3]`` uint8 for what `BatchedPolicy.cameras` names.
    noise : ``BatchedPolicy.noise_shape`` float32; all randomness of a policy without state.
    prompt : the instruction; empty for the policy's own.
    """

    session: str
    seed: int
    step: int
    observation: Observation
    noise: np.ndarray
    prompt: str = ""


class BatchedPolicy(ABC):
    """A policy that is ready to answer.

    Attributes
    ----------
    observation : keys that it reads and their lengths.
    cameras : pictures that it reads: camera -> (height, width).
    action_dim : length of its actions.
    horizon_steps : actions of a chunk.
    replan_steps : how many of them are executed before it is asked again.
    noise_shape : of the noise of one row; empty where it takes none.
    stateful : whether an answer depends on earlier rows of its session.
    prompt : the instruction that it was made for; None where it reads none.
    server_s : queue and inference in a policy server so far, in s; None where this is no policy of a server.
    batch_sizes : numbers of rows that give the same bits whatever the other rows are, ascending; a batch is padded to
        one of them. None where any number does.
    """

    observation: Mapping[str, int]
    cameras: Mapping[str, tuple[int, int]] = {}
    action_dim: int
    horizon_steps: int = 1
    replan_steps: int = 1
    noise_shape: tuple[int, ...] = ()
    stateful: bool = False
    prompt: str | None = None
    batch_sizes: Sequence[int] | None = None
    server_s: float | None = None

    def warm_up(self, n_rows: int) -> None:
        """Compile what a batch of ``n_rows`` needs, so that no episode waits for it."""
        self.infer([example_row(self, number) for number in range(n_rows)])

    @abstractmethod
    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        """Chunks ``[n_rows, horizon_steps, action_dim]`` in the order of ``rows``, each as if it had come alone."""

    def forget(self, session: str) -> None:  # noqa: B027 - a policy without state has nothing to forget
        """A session is over."""


def episode_noise(seed: int, step: int, shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise ``shape`` float32 of one step of one episode, whoever asks and in whatever batch."""
    return np.random.default_rng((_NOISE_STREAM, seed, step)).standard_normal(tuple(shape), dtype=np.float32)


def example_row(policy: BatchedPolicy, number: int = 0) -> Row:
    """A row of the right shapes, for warming up; ``number`` makes it differ from others."""
    generator = np.random.default_rng(number)
    observation: dict[str, np.ndarray] = {
        key: generator.standard_normal(length) for key, length in policy.observation.items()
    }
    for camera, (height, width) in policy.cameras.items():
        observation[image_key(camera)] = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise = episode_noise(number, 0, policy.noise_shape)
    return Row(f"example-{number}", number, 0, observation, noise, policy.prompt or "")


def image_key(camera: str) -> str:
    """Key of a camera's picture in an observation, robosuite's name."""
    return f"{camera}_image"


class ChunkedEpisode(Policy):
    """A batched policy in one episode: it is asked every ``replan_steps`` steps, with noise of the episode's seed."""

    def __init__(self, policy: BatchedPolicy) -> None:
        self.policy = policy
        self.observation = dict(policy.observation)
        self.cameras = dict(policy.cameras)
        self.action_dim = policy.action_dim
        self._session: str | None = None

    def start(self, seed: int) -> None:
        if self._session is not None:
            self.policy.forget(self._session)
        self._session, self._seed, self._step = uuid.uuid4().hex, seed, 0
        self._server_s = self.policy.server_s

    @property
    def server_s(self) -> float | None:
        now = self.policy.server_s
        return None if now is None or self._server_s is None else now - self._server_s

    def act(self, observation: Observation) -> np.ndarray:
        if self._session is None:
            raise PolicyError("found act before start, expected start(seed) at the beginning of every episode")
        within = self._step % self.policy.replan_steps
        if within == 0:
            noise = episode_noise(self._seed, self._step, self.policy.noise_shape)
            reads = [*self.observation, *map(image_key, self.cameras)]
            seen = {key: observation[key] for key in reads}
            row = Row(self._session, self._seed, self._step, seen, noise, self.policy.prompt or "")
            self._chunk = self.policy.infer([row])[0]
        self._step += 1
        return np.asarray(self._chunk[within], dtype=np.float64)


class Sessions(BatchedPolicy):
    """Many episodes of a policy that keeps the state of one: a fork of it for every session, asked one by one.

    A row that is repeated (its answer was lost on the way) gets the same answer and changes nothing.
    """

    stateful = True

    def __init__(self, policy: Policy) -> None:
        self.observation = dict(policy.observation)
        self.cameras = dict(policy.cameras)
        self.action_dim = policy.action_dim
        self._policy = policy
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        return np.stack([self._answer(row) for row in rows])

    def forget(self, session: str) -> None:
        self._sessions.pop(session, None)

    def _answer(self, row: Row) -> np.ndarray:
        if row.session not in self._sessions and row.step == 0:
            self._sessions[row.session] = _Session(self._policy.fork(), row.seed)
            while len(self._sessions) > SESSIONS_KEPT:
                self._sessions.popitem(last=False)
        session = self._sessions.get(row.session)
        if session is None or row.step not in (session.step, session.step + 1):
            seen = "none of its steps" if session is None else f"its steps up to {session.step}"
            raise SessionLost(
                f"found step {row.step} of session {row.session}, of which {seen} were seen; show it from step 0"
            )
        self._sessions.move_to_end(row.session)
        if row.step == session.step + 1:
            try:
                session.answer = np.asarray(session.policy.act(row.observation))[None, :]
            except BaseException:  # whatever it was: half of the step may be remembered, so it must begin anew
                self.forget(row.session)
                raise
            session.step = row.step
        return session.answer


class _Session:
    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy, self.step = policy, -1
        self.answer = np.empty(0)
        policy.start(seed)
