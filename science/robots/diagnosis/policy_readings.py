"""What the evidence about the policy says, each piece by itself: its rate, its fit, its training, its settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from science.robots.diagnosis.evaluator_readings import CHANCE_RATE, SELECTION_GAP
from science.robots.diagnosis.evidence import ActionError, Evidence
from science.robots.diagnosis.facts import Fault, Severity
from science.robots.diagnosis.reasons import (
    HEALTHY_RATE,
    MIN_ROLLOUTS,
    Piece,
    Reason,
    State,
    Verdict,
    counted,
    missing,
    said,
)
from science.robots.statistics import wilson

GOOD_FIT = 0.35
"""Largest action error, over that of the mean action, that reproduces the demonstrations. Measured: 0.21 for a policy
with 20 of 20 successes, 0.50 after 100 steps of training, 0.95 after 10."""


BAD_FIT = 0.65
"""From here on a policy does little else than the mean action. Measured: 0.89 without normalised
observations, 0.68 the same on a task of stacking."""


GRIPPER_GAIN = 0.3
"""Least share of the mean action's gripper disagreement that a policy must have removed. Measured: 0.82 for 20 of 20
successes, 0.21 without normalised observations."""


OVERFIT_GAP = 2.0
"""Validation over training error from which the policy knows its demonstrations and not the task. Measured: 3.2 for 5
demonstrations, 1.0 for 40."""


FEW_DEMONSTRATIONS = 20
"""Fewer cover too few starts even of the easiest task: 5 gave 5 of 20 successes, 40 gave 20 of 20."""


MIN_STEPS = 100
"""Gradient steps under which a policy cannot have been trained, whatever its batch size."""


SETTLED_SHARE = 0.2
"""A loss has settled when the last quarter of training brought at most this share of the whole fall. A loss that falls
evenly brings about 0.3 there. Measured: 0.05 to 0.18 for full trainings, 0.41 for 10 steps."""

LONG_TRAINING = 10.0
"""Passes over the demonstrations after which a policy that is worse than `BAD_FIT` was not just trained too little.
Measured: 0.50 of the mean action's error after 4 passes."""


MIN_LOSS_POINTS = 8
"""Fewer points have no quarters that could be compared."""


def read_policy(evidence: Evidence) -> list[Reason]:
    """Every piece of evidence about the policy but its settings."""
    budget, loss = _budget(evidence), _loss(evidence)
    return [
        _rate(evidence),
        _stage(evidence),
        _train_error(evidence, loss.state, budget.state),
        _valid_error(evidence.train_error, evidence.valid_error),
        loss,
        _success_curve(evidence),
        budget,
        _demonstrations(evidence),
    ]


def _rate(evidence: Evidence) -> Reason:
    rollouts = evidence.rollouts
    text = f"the policy succeeded in {said(rollouts)}"
    if rollouts.n < MIN_ROLLOUTS:
        return counted(Piece.RATE, State.UNCLEAR, f"{text}: fewer than {MIN_ROLLOUTS} episodes", rollouts)
    if rollouts.rate.low >= HEALTHY_RATE:
        return counted(Piece.RATE, State.PASSES, text, rollouts, speaks_for=Verdict.HEALTHY)
    if rollouts.rate.high < HEALTHY_RATE:
        return counted(Piece.RATE, State.FAILS, text, rollouts, speaks_against=Verdict.HEALTHY)
    return counted(Piece.RATE, State.UNCLEAR, f"{text}: neither clearly below nor above {HEALTHY_RATE:.0%}", rollouts)


def stuck_at(evidence: Evidence) -> tuple[str, float] | None:
    """The stage where most failures stop and their share; the earlier one of two alike. None without such a record."""
    order = [f"no_{name}" for name in evidence.milestones]
    failures = {
        stage: count
        for stage, count in evidence.rollouts.stages.items()
        if stage not in ("success", "error", "solved_at_reset") and count
    }
    if not failures:
        return None
    stage = min(failures, key=lambda name: (-failures[name], order.index(name) if name in order else len(order), name))
    return stage, failures[stage] / sum(failures.values())


def first_stage(evidence: Evidence) -> str:
    """The stage of an episode in which nothing was reached."""
    return f"no_{evidence.milestones[0]}" if evidence.milestones else "no_reach"


def _stage(evidence: Evidence) -> Reason:
    found = stuck_at(evidence)
    if found is None:
        return missing(Piece.STAGE, "no failure has a stage on record: it would say how far the policy comes")
    stage, share = found
    first = stage == first_stage(evidence)
    text = f"{share:.0%} of the failures stop at `{stage}`"
    if first:
        return Reason(Piece.STAGE, State.FAILS, f"{text}: nothing was reached", value=share)
    text += ": what comes before it was done, so the policy acts on what it sees"
    return Reason(Piece.STAGE, State.PASSES, text, value=share, speaks_for=Verdict.TRAINING)


def _error_text(error: ActionError, which: str) -> str:
    ratio = (
        f"{error.ratio:.0%} of the mean action's error" if error.ratio is not None else "the demonstrations never vary"
    )
    return (
        f"action error on {error.n_demonstrations} {which} demonstrations: arm {error.arm_l1:.3g} ({ratio}), gripper "
        f"agrees in {error.gripper_agreement:.0%} (mean action {error.mean_action_gripper:.0%})"
    )


def _train_error(evidence: Evidence, loss: State, budget: State) -> Reason:
    error = evidence.train_error
    if error is None:
        return missing(
            Piece.TRAIN_ERROR,
            "no action error on its own demonstrations: it would show whether the policy reproduces them at all",
        )
    text, ratio, gain = _error_text(error, "training"), error.ratio, error.gripper_gain
    if ratio is None:
        return Reason(Piece.TRAIN_ERROR, State.UNCLEAR, text)
    if ratio >= BAD_FIT or (gain is not None and gain < GRIPPER_GAIN):
        if budget is State.FAILS or loss is State.FAILS:
            speaks: Verdict | None = Verdict.TRAINING
        else:
            long = (_passes(evidence) or 0.0) >= LONG_TRAINING
            speaks = Verdict.CONFIGURATION if loss is State.PASSES or long else None
        if speaks is Verdict.CONFIGURATION:
            though = "the loss fell and settled" if loss is State.PASSES else "it was trained for long"
            text += f": though {though}, so what acts is not what was trained, or what it sees does not tell what to do"
        return Reason(Piece.TRAIN_ERROR, State.FAILS, text, value=ratio, speaks_for=speaks)
    if ratio > GOOD_FIT:
        text += ": it reproduces them in part"
        return Reason(Piece.TRAIN_ERROR, State.UNCLEAR, text, value=ratio, speaks_for=Verdict.TRAINING)
    return Reason(Piece.TRAIN_ERROR, State.PASSES, text, value=ratio)


def _valid_error(train: ActionError | None, valid: ActionError | None) -> Reason:
    if valid is None or valid.ratio is None:
        return missing(
            Piece.VALID_ERROR,
            "no action error on demonstrations that it did not see: it would show too little data",
        )
    text, ratio = _error_text(valid, "validation"), valid.ratio
    if train is None or train.ratio is None or train.ratio >= BAD_FIT:
        return Reason(Piece.VALID_ERROR, State.UNCLEAR, text, value=ratio)
    if ratio > GOOD_FIT and ratio > OVERFIT_GAP * train.ratio:
        text += f": {ratio / max(train.ratio, 1e-9):.2g} times that of training"
        return Reason(Piece.VALID_ERROR, State.FAILS, text, value=ratio, speaks_for=Verdict.TRAINING)
    return Reason(Piece.VALID_ERROR, State.PASSES if ratio <= GOOD_FIT else State.UNCLEAR, text, value=ratio)


def _loss(evidence: Evidence) -> Reason:
    points = [(step, loss) for step, loss in sorted(evidence.loss_curve) if np.isfinite(loss)]
    if not points:
        return missing(Piece.LOSS, "no loss curve: it would show whether training had ended")
    losses = np.array([loss for _, loss in points])
    text = f"the loss went from {losses[0]:.3g} to {losses[-1]:.3g} over {points[-1][0]} steps"
    if len(losses) < MIN_LOSS_POINTS:
        return Reason(Piece.LOSS, State.UNCLEAR, f"{text} ({len(losses)} points)", value=float(losses[-1]))
    quarter = len(losses) // 4
    start, end = losses[: max(1, len(losses) // 10)].mean(), losses[-quarter:].mean()
    fall, late = start - end, losses[-2 * quarter : -quarter].mean() - end
    if fall > 0 and late <= SETTLED_SHARE * fall:
        text += " and settled; a low loss does not say that a policy succeeds"
        return Reason(Piece.LOSS, State.PASSES, text, value=float(losses[-1]))
    text += " and was still falling" if fall > 0 else " and did not fall"
    return Reason(Piece.LOSS, State.FAILS, text, value=float(losses[-1]), speaks_for=Verdict.TRAINING)


def _success_curve(evidence: Evidence) -> Reason:
    points = [(step, wilson(successes, n), n) for step, successes, n in sorted(evidence.success_curve) if n]
    if not points:
        return missing(Piece.SUCCESS_CURVE, "no success over training: it would show a rate that rose and fell again")
    best_step, best, n = max(points, key=lambda point: (point[1].low, point[0]))
    last_step, last, _ = points[-1]
    text = f"best at step {best_step}: {best.value:.0%} of {n}; last at step {last_step}: {last.value:.0%}"
    shown = evidence.step if evidence.step is not None else last_step
    later = shown > best_step and evidence.rollouts.n >= MIN_ROLLOUTS
    fell = last.high < best.low or (later and evidence.rollouts.rate.high < best.low - SELECTION_GAP)
    if fell:
        text += ": it rose and fell again"
        return Reason(Piece.SUCCESS_CURVE, State.FAILS, text, best, n, best.value, speaks_for=Verdict.TRAINING)
    if best.low > CHANCE_RATE:
        return Reason(Piece.SUCCESS_CURVE, State.PASSES, text, best, n, best.value, speaks_against=Verdict.EVALUATION)
    return Reason(Piece.SUCCESS_CURVE, State.UNCLEAR, text, best, n, best.value)


def _passes(evidence: Evidence) -> float | None:
    """Passes over the demonstrations in training; a sequence begins at every sample."""
    facts, steps = evidence.facts, _steps(evidence)
    if steps is None or facts is None or not facts.batch_size or not evidence.n_samples:
        return None
    return steps * facts.batch_size / evidence.n_samples


def _steps(evidence: Evidence) -> int | None:
    facts = evidence.facts
    return facts.training_steps if facts is not None and facts.training_steps is not None else evidence.step


def _budget(evidence: Evidence) -> Reason:
    steps, passes = _steps(evidence), _passes(evidence)
    if steps is None:
        return missing(Piece.BUDGET, "the number of training steps is not on record")
    text = f"{steps} steps of training" + (
        f", {passes:.2g} passes over the demonstrations" if passes is not None else ""
    )
    if steps < MIN_STEPS or (passes is not None and passes < 1):
        return Reason(Piece.BUDGET, State.FAILS, text, value=steps, speaks_for=Verdict.TRAINING)
    return Reason(Piece.BUDGET, State.PASSES, text, value=steps)


def _demonstrations(evidence: Evidence) -> Reason:
    n = evidence.n_demonstrations
    if n is None:
        return missing(Piece.DEMONSTRATIONS, "the number of demonstrations is not on record")
    text = f"{n} demonstrations" + (f", {evidence.n_samples} samples" if evidence.n_samples is not None else "")
    if n < FEW_DEMONSTRATIONS:
        return Reason(Piece.DEMONSTRATIONS, State.FAILS, text, n=n, value=n, speaks_for=Verdict.TRAINING)
    return Reason(Piece.DEMONSTRATIONS, State.PASSES, text, n=n, value=n)


def read_faults(faults: list[Fault], states: Mapping[Piece, State], known: bool) -> tuple[list[Reason], list[Fault]]:
    """Reasons from the settings' faults, and the fatal ones among them that nothing refutes."""
    if not known:
        return [missing(Piece.SETTINGS, "no settings: they would show the known causes of a rate of 0")], []
    if not faults:
        return [Reason(Piece.SETTINGS, State.PASSES, "no known fault in the settings that are on record")], []
    reasons, standing = [], []
    for fault in faults:
        text = f"{fault.name}: found {fault.found}; expected {fault.expected}"
        refuting = sorted(fault.refuted_by) if fault.refuted_by else []
        if refuting and all(states[Piece(piece)] is State.PASSES for piece in refuting):
            text += f" (does no harm here: {' and '.join(refuting)} as expected)"
            reasons.append(Reason(Piece.SETTINGS, State.UNCLEAR, text))
        elif fault.severity is Severity.FATAL:
            standing.append(fault)
            reasons.append(Reason(Piece.SETTINGS, State.FAILS, text, speaks_for=Verdict.CONFIGURATION))
        else:
            reasons.append(Reason(Piece.SETTINGS, State.UNCLEAR, text))
    return reasons, standing
