"""Two trajectories of one episode: equal in every bit, or where they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replay.values import differing_elements, largest_deviation

STATE, ACTION, MILESTONE = "state", "action", "milestone"

Arrays = Mapping[str, np.ndarray]
"""`states` [T + 1, n_state], `actions` [T, action_dim] and `milestones` [T + 1, n_milestones] of an episode."""


@dataclass(frozen=True)
class Parting:
    """Where two trajectories first differ.

    Attributes
    ----------
    what : state, action or milestone.
    step : control step: state k is the one before action k.
    element : first element that differs, of ``of``; ``count`` of them do.
    recorded, replayed : its values.
    steps_differing : control steps after which states, actions or milestones differ.
    largest : largest deviation of a state over all steps that both have.
    """

    what: str
    step: int
    element: int
    of: int
    count: int
    recorded: float
    replayed: float
    steps_differing: int
    largest: float


def part(recorded: Arrays, replayed: Arrays) -> Parting | None:
    """The first step at which two trajectories differ: state 0, milestones 0, action 0, state 1, ...; None where none
    of the steps that both have does. That one is longer is not told here.

    An action that differs where all states before it are equal is the policy's doing; a state that differs after equal
    actions is the simulator's.
    """
    order = ((STATE, "states"), (MILESTONE, "milestones"), (ACTION, "actions"))
    shared = {name: min(len(recorded[name]), len(replayed[name])) for _, name in order}
    for step in range(max(shared.values())):
        for what, name in order:
            if step >= shared[name]:
                continue
            a, b = recorded[name][step], replayed[name][step]
            if a.shape != b.shape:
                return Parting(what, step, 0, a.size, a.size, float(a.size), float(b.size), 0, float("inf"))
            differing = differing_elements(a, b)
            if differing.size:
                element = int(differing[0])
                states = slice(0, shared["states"])
                return Parting(
                    what,
                    step,
                    element,
                    a.size,
                    int(differing.size),
                    float(a[element]),
                    float(b[element]),
                    _steps_differing(recorded, replayed, shared),
                    largest_deviation(recorded["states"][states], replayed["states"][states]),
                )
    return None


def _steps_differing(recorded: Arrays, replayed: Arrays, shared: Mapping[str, int]) -> int:
    steps: set[int] = set()
    for name, n in shared.items():
        steps |= {step for step in range(n) if recorded[name][step].tobytes() != replayed[name][step].tobytes()}
    return len(steps)
