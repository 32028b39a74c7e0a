"""What every policy must keep to be batched: whoever asks with it, an answer depends on its own episode alone.

`problems` asks a policy as a server would and says in words what does not hold. It runs no simulation: observations are
noise of the right shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from science.robots.policies.base import ACTION_TOLERANCE
from science.robots.policies.batched import BatchedPolicy, Row, episode_noise, example_row

RELATIVE_TOLERANCE = 1e-5
"""Of actions, for a policy that does not promise equal bits (`BatchedPolicy.batch_sizes`)."""


def problems(policy: BatchedPolicy, n_sessions: int = 3, n_asks: int = 3) -> list[str]:
    """What does not hold of a policy; empty where it conforms.

    Parameters
    ----------
    n_sessions, n_asks : episodes that ask together, and how often each of them asks.
    """
    found = [*_declared(policy)]
    if found:
        return found
    rounds = _rounds(policy, n_sessions, n_asks)
    names = itertools.count()

    def ask(order: Sequence[int]) -> np.ndarray:
        """Answers of all rounds, ``[n_asks, n_sessions, horizon, action_dim]``, asked in batches of this order."""
        run = next(names)
        answers = []
        for rows in rounds:
            fresh = [replace(rows[index], session=f"{run}-{rows[index].session}") for index in order]
            told = np.asarray(policy.infer(fresh))
            answers.append(told[np.argsort(order)] if len(told) == len(order) else told)
        return np.stack(answers)

    together = ask(range(n_sessions))
    found += _answers(policy, together, n_sessions)
    if found:
        return found
    single = np.stack([_alone(policy, rounds, index) for index in range(n_sessions)], axis=1)
    same = _same(policy)
    if not same(together, ask(range(n_sessions))):
        found.append("the same rows got other answers the second time: an answer depends on what was asked before")
    if not same(together, single):
        found.append("a row got another answer in a batch than alone: rows or sessions influence each other")
    if not same(together, ask([*range(n_sessions)][::-1])):
        found.append("rows in another order got other answers: answers are not in the order of the rows")
    found += _repeated(policy, rounds, same)
    return found


def _declared(policy: BatchedPolicy) -> Iterator[str]:
    if not 1 <= policy.replan_steps <= policy.horizon_steps:
        yield f"found replan_steps {policy.replan_steps} with chunks of {policy.horizon_steps}, expected 1 to that"
    sizes = policy.batch_sizes
    if sizes is not None and (not sizes or list(sizes) != sorted(set(sizes)) or min(sizes) < 1):
        yield f"found batch_sizes {list(sizes)}, expected ascending numbers from 1 on, or None"


def _rounds(policy: BatchedPolicy, n_sessions: int, n_asks: int) -> list[list[Row]]:
    """For each time that is asked, a row of each session."""
    return [
        [
            replace(
                example_row(policy, 1000 * session + ask),
                session=f"{session}",
                seed=session,
                step=ask * policy.replan_steps,
                noise=episode_noise(session, ask * policy.replan_steps, policy.noise_shape),
            )
            for session in range(n_sessions)
        ]
        for ask in range(n_asks)
    ]


def _answers(policy: BatchedPolicy, answers: np.ndarray, n_sessions: int) -> Iterator[str]:
    expected = (n_sessions, policy.horizon_steps, policy.action_dim)
    if answers.shape[1:] != expected:
        yield f"found answers of shape {answers.shape[1:]}, expected {expected} (rows, horizon_steps, action_dim)"
    elif not np.issubdtype(answers.dtype, np.floating):
        yield f"found answers of type {answers.dtype}, expected floating ones"
    elif not np.isfinite(answers).all():
        yield "found answers that are NaN or infinite"
    elif np.abs(answers).max() > 1 + ACTION_TOLERANCE:
        yield f"found an action of {np.abs(answers).max():g}, expected actions in [-1, 1]"


def _alone(policy: BatchedPolicy, rounds: Sequence[Sequence[Row]], index: int) -> np.ndarray:
    """Answers ``[n_asks, horizon, action_dim]`` of one session that nobody else is beside."""
    rows = [replace(each[index], session=f"alone-{index}") for each in rounds]
    answers = np.stack([np.asarray(policy.infer([row]))[0] for row in rows])
    policy.forget(f"alone-{index}")
    return answers


def _repeated(
    policy: BatchedPolicy, rounds: Sequence[Sequence[Row]], same: Callable[[np.ndarray, np.ndarray], bool]
) -> Iterator[str]:
    """A row that is asked again (its answer was lost), and a session that begins again after it was forgotten."""
    rows = [replace(each[0], session="repeated") for each in rounds]
    first = [np.asarray(policy.infer([row])) for row in rows]
    if not same(first[-1], np.asarray(policy.infer([rows[-1]]))):
        yield "a row that was asked again got another answer: a client that lost an answer could not go on"
    policy.forget("repeated")
    if not same(first[0], np.asarray(policy.infer([rows[0]]))):
        yield "a session that was forgotten did not begin anew"


def _same(policy: BatchedPolicy) -> Callable[[np.ndarray, np.ndarray], bool]:
    """How answers are compared: in every bit where the policy promises it or keeps state, else within a tolerance."""
    if policy.stateful or policy.batch_sizes is not None:
        return lambda a, b: a.shape == b.shape and a.tobytes() == b.tobytes()
    return lambda a, b: a.shape == b.shape and bool(np.allclose(a, b, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE))
