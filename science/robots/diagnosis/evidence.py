"""The evidence that a diagnosis is made of: counts through one evaluator, action errors, curves and facts.

All of it is optional but the policy's own rollouts; None is "not measured" and is never read as good or bad. Gathering
it is the caller's; reading it is `evaluator_readings.py` and `policy_readings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from science.robots.diagnosis.facts import Facts
from science.robots.statistics import Interval, StatisticsError, wilson

START_MARGIN = 0.1
"""A start counts as outside only beyond this share of the demonstrations' range in some element. Without it almost
every start is outside somewhere, for tens of elements and as many demonstrations; with it, a range that is half as wide
again still shows."""

START_FLOOR = 1e-3
"""The least margin, in the element's unit (m, quaternion): elements that should be constant vary by less."""


class EvidenceError(ValueError):
    """Evidence that contradicts itself, such as more successes than episodes."""


@dataclass(frozen=True)
class Counts:
    """Episodes of one policy through one evaluator.

    Attributes
    ----------
    successes, n : successes of the ``n`` episodes that ended in success or failure.
    errors : episodes that raised; solved_at_reset : episodes that began solved. Neither is in ``n``.
    stages : episodes by the stage where they stopped, `success` and `error` allowed among them.
    messages : errors by message.
    """

    successes: int
    n: int
    errors: int = 0
    solved_at_reset: int = 0
    stages: Mapping[str, int] = field(default_factory=dict)
    messages: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            wilson(self.successes, self.n)
        except StatisticsError as error:
            raise EvidenceError(str(error)) from error
        negative = [count for count in (self.errors, self.solved_at_reset, *self.stages.values()) if count < 0]
        if negative:
            raise EvidenceError(f"found a count of {negative[0]}, expected at least 0")

    @property
    def total(self) -> int:
        """All episodes, with errors and those that began solved."""
        return self.n + self.errors + self.solved_at_reset

    @property
    def rate(self) -> Interval:
        """Success rate with its Wilson interval."""
        return wilson(self.successes, self.n)


@dataclass(frozen=True)
class ActionError:
    """How far a policy's actions are from demonstrated ones, shown the demonstrated observations.

    Attributes
    ----------
    arm_l1 : mean absolute error of the arm's elements, action units. arm_mse : mean squared error.
    gripper_agreement : share of samples whose gripper element has the demonstrated sign.
    mean_action_l1, mean_action_gripper : the same of the training demonstrations' mean action, the baseline.
    n_demonstrations, n_samples : what they were measured on.
    """

    arm_l1: float
    gripper_agreement: float
    mean_action_l1: float
    mean_action_gripper: float
    n_demonstrations: int
    n_samples: int
    arm_mse: float | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ActionError:
        """From what `action_error.action_error` returns."""
        return cls(
            arm_l1=record["arm_l1"],
            gripper_agreement=record["gripper_agreement"],
            mean_action_l1=record["mean_action"]["arm_l1"],
            mean_action_gripper=record["mean_action"]["gripper_agreement"],
            n_demonstrations=record["n_demonstrations"],
            n_samples=record["n_samples"],
            arm_mse=record["arm_mse"],
        )

    @property
    def ratio(self) -> float | None:
        """Error over that of the mean action: 0 is perfect, 1 has learned nothing. None where actions never vary."""
        return self.arm_l1 / self.mean_action_l1 if self.mean_action_l1 > 0 else None

    @property
    def gripper_gain(self) -> float | None:
        """Share of the baseline's gripper disagreement that is gone; None where the gripper never moves."""
        room = 1 - self.mean_action_gripper
        return (self.gripper_agreement - self.mean_action_gripper) / room if room > 0.02 else None


@dataclass(frozen=True)
class Consistency:
    """Recorded actions of rollouts against the policy asked again for the recorded observations.

    The policy is started anew with the episode's seed and shown the first observations as recorded; a deterministic
    policy then repeats its actions. Where it does not, the evaluator feeds it something else, keeps its hidden state
    over episodes, or changes its actions.

    Attributes
    ----------
    max_abs_difference : over the compared actions, action units.
    n : actions that were compared.
    """

    max_abs_difference: float
    n: int


@dataclass(frozen=True)
class Starts:
    """First observations of the rollouts against those of the demonstrations (`starts_outside` computes it).

    Attributes
    ----------
    outside : rollouts that start outside the demonstrations' range, of ``n``.
    left_out_outside : demonstrations outside the range of the others, of ``n_demonstrations``: what is to be expected
        of starts that are distributed as the demonstrations'.
    elements : the observation elements that are outside most often, for the report.
    """

    outside: int
    n: int
    left_out_outside: int
    n_demonstrations: int
    elements: Sequence[str] = ()


def starts_outside(demonstrations: np.ndarray, rollouts: np.ndarray, names: Sequence[str] | None = None) -> Starts:
    """Count the rollouts whose first observation lies outside the range of the demonstrations' first observations.

    Parameters
    ----------
    demonstrations, rollouts : float ``[n, d]``, the concatenated first observation of each episode. Take the rollouts'
        as the policy was given them: this also finds observations that are permuted, scaled or flipped on the way.
    names : of the ``d`` elements.

    Raises
    ------
    EvidenceError
        For arrays that do not fit each other, are not finite, or fewer than 2 demonstrations.
    """
    known, seen = np.asarray(demonstrations, np.float64), np.asarray(rollouts, np.float64)
    if known.ndim != 2 or seen.ndim != 2 or known.shape[1] != seen.shape[1] or len(known) < 2:
        raise EvidenceError(
            f"found first observations of shapes {known.shape} and {seen.shape}, expected [n, d] with the same d, "
            "and at least 2 demonstrations"
        )
    if not np.isfinite(known).all() or not np.isfinite(seen).all():
        raise EvidenceError("found first observations that are NaN or infinite, expected finite numbers")
    beyond = _beyond(known, seen)
    left_out = sum(
        bool(_beyond(np.delete(known, number, axis=0), known[number : number + 1]).any())
        for number in range(len(known))
    )
    often = [int(element) for element in np.argsort(-beyond.sum(axis=0), kind="stable")[:3] if beyond[:, element].any()]
    return Starts(
        outside=int(beyond.any(axis=1).sum()),
        n=len(seen),
        left_out_outside=left_out,
        n_demonstrations=len(known),
        elements=tuple(names[element] if names is not None else str(element) for element in often),
    )


def _beyond(known: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """For each row of ``seen`` and element, whether it is beyond the range of ``known`` by more than the margin."""
    low, high = known.min(axis=0), known.max(axis=0)
    margin = START_MARGIN * (high - low) + START_FLOOR
    return (seen < low - margin) | (seen > high + margin)


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a rate.

    Attributes
    ----------
    rollouts : the policy through the evaluator.
    task, policy : names, for the report.
    step : training step of the checkpoint that was rolled out.
    milestones : of the task, in order; the first decides which stage is "nothing was reached".
    expert : the suite's scripted expert through the very same evaluator. expert_recording : the expert while it
        recorded the demonstrations (kept of attempted episodes).
    random : the random policy through the same evaluator.
    replays : recorded actions of demonstrations, replayed on their seeds or from their initial states through the same
        evaluator.
    replayed_as_executed : False where the recorded actions are not those that were executed (noise was added to the
        expert's actions and its own were recorded): then replays that fail prove nothing.
    train_error, valid_error : action error on demonstrations that were trained on, and on others.
    success_curve : (training step, successes, n) on seeds kept for choosing a checkpoint.
    loss_curve : (training step, loss).
    n_demonstrations, n_samples : that it was trained on, and their control steps.
    consistency, starts : see `Consistency` and `Starts`.
    facts : of training, checkpoint and evaluation, for `config_faults`.
    """

    rollouts: Counts
    task: str | None = None
    policy: str | None = None
    step: int | None = None
    milestones: Sequence[str] = ()
    expert: Counts | None = None
    expert_recording: Counts | None = None
    random: Counts | None = None
    replays: Counts | None = None
    replayed_as_executed: bool = True
    train_error: ActionError | None = None
    valid_error: ActionError | None = None
    success_curve: Sequence[tuple[int, int, int]] = ()
    loss_curve: Sequence[tuple[int, float]] = ()
    n_demonstrations: int | None = None
    n_samples: int | None = None
    consistency: Consistency | None = None
    starts: Starts | None = None
    facts: Facts | None = None
