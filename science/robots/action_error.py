"""How far a policy's actions are from demonstrated ones, where it is shown the demonstrated observations.

A policy that reproduces its demonstrations and still fails in simulation compounds its errors, or is evaluated
wrongly; one that does not reproduce them was not trained. Small errors alone do not predict success.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from science.robots.demonstration_checks import TRAIN, VALID, DemonstrationError
from science.robots.demonstrations import ARM_DIMS, Demonstration, read_demonstrations
from science.robots.policies.base import Policy


def action_error(
    policy: Policy, demonstrations: Path, *, mask: str = VALID, n: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Run a policy along demonstrations and compare its actions with theirs.

    The policy starts anew with each demonstration and keeps its state along it, as in an episode; what it sees is the
    demonstration's observation, whatever it did before.

    Parameters
    ----------
    mask : the demonstrations compared with: `valid` (not trained on) or `train`.
    n : the first of them only; None for all.
    seed : of the policy's start, raised by one a demonstration.

    Returns
    -------
    dict
        ``n_demonstrations``, ``n_samples``, and ``arm_mse``, ``arm_l1`` (mean over samples and the 6 arm elements, in
        action units), ``gripper_agreement`` (share of samples whose gripper element has the demonstration's sign); the
        same three under ``mean_action`` for the mean action of the training demonstrations, and under
        ``repeat_previous`` for the demonstration's previous action (first steps left out). Lower errors and a higher
        agreement are better; a policy worse than ``mean_action`` has learned nothing.

    Raises
    ------
    DemonstrationError
        For a file that cannot be read, or a mask that is not there or empty.
    """
    shown = list(_first(read_demonstrations(demonstrations, mask), n))
    if not shown:
        raise DemonstrationError(
            f"found no demonstration in mask/{mask} of {demonstrations}, expected at least one; use mask='train'"
        )
    mean = np.concatenate([demo.actions for demo in read_demonstrations(demonstrations, TRAIN)]).mean(axis=0)
    predicted = [_along(policy, demo, seed + number) for number, demo in enumerate(shown)]
    actions = np.concatenate([demo.actions for demo in shown])
    return {
        "mask": mask,
        "n_demonstrations": len(shown),
        "n_samples": len(actions),
        **_errors(np.concatenate(predicted), actions),
        "mean_action": _errors(np.broadcast_to(mean, actions.shape), actions),
        "repeat_previous": _errors(
            np.concatenate([demo.actions[:-1] for demo in shown]), np.concatenate([demo.actions[1:] for demo in shown])
        ),
    }


def _first(demonstrations: Iterator[Demonstration], n: int | None) -> Iterator[Demonstration]:
    for number, demonstration in enumerate(demonstrations):
        if n is not None and number >= n:
            return
        yield demonstration


def _along(policy: Policy, demonstration: Demonstration, seed: int) -> np.ndarray:
    policy.start(seed)
    observations = demonstration.observations
    return np.stack(
        [
            policy.act({key: observations[key][step] for key in observations})
            for step in range(len(demonstration.actions))
        ]
    )


def _errors(predicted: np.ndarray, actions: np.ndarray) -> dict[str, float | None]:
    if not len(actions):
        return {"arm_mse": None, "arm_l1": None, "gripper_agreement": None}
    arm = predicted[:, :ARM_DIMS] - actions[:, :ARM_DIMS]
    return {
        "arm_mse": float(np.mean(arm**2)),
        "arm_l1": float(np.mean(np.abs(arm))),
        "gripper_agreement": float(np.mean(np.sign(predicted[:, -1]) == np.sign(actions[:, -1]))),
    }
