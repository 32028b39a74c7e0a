"""Rules about the policy: its rate, its settings, its training. Each answers a case or leaves it alone (None)."""

from __future__ import annotations

from science.robots.diagnosis.case import Case, Conclusion, named, repairs
from science.robots.diagnosis.evaluator_readings import CHANCE_RATE
from science.robots.diagnosis.policy_readings import first_stage, stuck_at
from science.robots.diagnosis.reasons import MIN_ROLLOUTS, Piece, State, Verdict, said
from science.robots.diagnosis.report import Cause
from science.robots.statistics import n_to_separate

FULL_SHARE = 0.5
"""A stage is where the policy is stuck when at least this share of its failures stop there."""


def too_few(case: Case) -> Conclusion | None:
    """Too few episodes for any rate."""
    if case.rollouts.n >= MIN_ROLLOUTS:
        return None
    why = f"{case.text(Piece.RATE)}, {case.rollouts.errors} errors"
    return Verdict.UNDETERMINED, Cause.TOO_FEW_ROLLOUTS, why, (f"roll out at least {MIN_ROLLOUTS} seeds, better 50",)


def healthy(case: Case) -> Conclusion | None:
    """The policy succeeds, in an evaluator that has also said no."""
    if not case.high:
        return None
    why = case.text(Piece.RATE)
    unsolved = [
        counts.n - counts.successes
        for counts in (case.rollouts, case.evidence.expert, case.evidence.replays)
        if counts is not None
    ]
    unsolved += [n - successes for _, successes, n in case.evidence.success_curve]
    if not case.passes(Piece.RANDOM) and not any(unsolved):
        return (
            Verdict.UNDETERMINED,
            Cause.NEVER_SAID_NO,
            f"{why}; but nothing has ever failed in this evaluator, so its success test may always pass",
            case.measure(Piece.RANDOM) or ("run the random policy on more seeds",),
        )
    admitted = case.admitted
    if admitted is not None and case.rollouts.rate.high < admitted.rate.low:
        why += f"; that is below what the evaluator admits, {said(admitted)}"
    elsewhere = [piece for piece in (Piece.STARTS, Piece.REPLAYS) if case.fails(piece)]
    if elsewhere:
        why += f"; it does so in an environment that is not the demonstrations': {case.text(*elsewhere)}"
    return Verdict.HEALTHY, Cause.CAPABLE, why, case.measure(Piece.RANDOM, Piece.EXPERT)


def borderline(case: Case) -> Conclusion | None:
    """The rate is neither high nor low: more episodes would tell."""
    if case.low:
        return None
    why, admitted = case.text(Piece.RATE), case.admitted
    steps = "roll out more seeds"
    if admitted is not None and admitted.rate.value is not None and case.rollouts.rate.value is not None:
        n = n_to_separate(case.rollouts.rate.value, admitted.rate.value)
        why += f"; the evaluator admits {said(admitted)}"
        steps += f": about {n} shared seeds separate these two rates" if n is not None else ""
    return Verdict.UNDETERMINED, Cause.BORDERLINE, why, (steps,)


def faulty_setting(case: Case) -> Conclusion | None:
    """A setting that is known to bring a rate to 0, and that nothing refutes."""
    if not case.standing:
        return None
    steps = (*repairs(case.standing), *case.measure(Piece.EXPERT))
    return Verdict.CONFIGURATION, Cause.FAULTY_SETTING, f"{case.text(Piece.RATE)}; {named(case.standing)}", steps


def _training(cause: Cause, why: str, *steps: str) -> Conclusion:
    return Verdict.TRAINING, cause, why, steps


def regressed(case: Case) -> Conclusion | None:
    """An earlier checkpoint was better."""
    if not case.fails(Piece.SUCCESS_CURVE):
        return None
    step = "evaluate the checkpoint that was best on the selection seeds, and lower the learning rate late"
    return _training(Cause.REGRESSED, case.text(Piece.RATE, Piece.SUCCESS_CURVE), step)


def does_not_fit(case: Case) -> Conclusion | None:
    """The policy does not reproduce its own demonstrations."""
    undertrained = case.fails(Piece.BUDGET) or case.fails(Piece.LOSS)
    unmeasured = case.state(Piece.TRAIN_ERROR) is State.MISSING
    if not case.fails(Piece.TRAIN_ERROR) and not (unmeasured and undertrained):
        return None
    pieces = [
        piece for piece in (Piece.TRAIN_ERROR, Piece.LOSS, Piece.BUDGET) if case.state(piece) is not State.MISSING
    ]
    why = case.text(Piece.RATE, *pieces)
    if undertrained:
        return _training(Cause.UNDERFITTED, why, "train longer, until the loss has settled and the action error falls")
    if case.reasons[Piece.TRAIN_ERROR].speaks_for is Verdict.CONFIGURATION:
        return (
            Verdict.CONFIGURATION,
            Cause.NOT_WHAT_WAS_TRAINED,
            why,
            (
                "compute the training loss once more from the checkpoint as it is loaded for evaluation",
                "compare normalisation, order and keys of the observation between training and evaluation",
                "check that the observation holds what the actions depend on",
            ),
        )
    return (
        Verdict.UNDETERMINED,
        Cause.UNMEASURED_POLICY,
        f"{why}: without a loss curve this may be too little training, or a policy that is loaded wrongly",
        (*case.measure(Piece.LOSS), "compute the training loss from the checkpoint as it is loaded"),
    )


def too_little_data(case: Case) -> Conclusion | None:
    """The policy knows its demonstrations and not the task, or there are too few of them."""
    pieces = [piece for piece in (Piece.VALID_ERROR, Piece.DEMONSTRATIONS) if case.fails(piece)]
    if not pieces:
        return None
    return _training(
        Cause.TOO_LITTLE_DATA, case.text(Piece.RATE, *pieces), "record more demonstrations and train again"
    )


def fits_in_part(case: Case) -> Conclusion | None:
    """The policy reproduces its own demonstrations in part only."""
    if case.reasons[Piece.TRAIN_ERROR].speaks_for is not Verdict.TRAINING:
        return None
    step = "train longer or with a larger network, until the action error stops falling"
    return _training(Cause.UNDERFITTED, case.text(Piece.RATE, Piece.TRAIN_ERROR), step)


def fits_and_fails(case: Case) -> Conclusion:
    """Nothing else is wrong: the errors compound, or the policy is stuck at a stage."""
    stuck, reached = stuck_at(case.evidence), case.passes(Piece.STAGE)
    fit = [piece for piece in (Piece.TRAIN_ERROR, Piece.STAGE) if case.state(piece) is not State.MISSING]
    why = case.text(Piece.RATE, *fit)
    succeeds = case.rollouts.rate.low > CHANCE_RATE
    if stuck is not None and stuck[1] >= FULL_SHARE and reached:
        return _training(
            Cause.STUCK,
            why,
            f"watch videos of episodes that stop at `{stuck[0]}` beside the demonstrations",
            f"record demonstrations that are clear about what follows `{stuck[0]}` (no dwelling, more samples there)",
            *case.measure(Piece.TRAIN_ERROR, Piece.CONSISTENCY),
        )
    fits = case.passes(Piece.TRAIN_ERROR)
    if succeeds or reached or (fits and case.passes(Piece.CONSISTENCY)):
        return _training(
            Cause.COMPOUNDING_ERROR,
            why,
            "record demonstrations with noise, so that they show the way back",
            *case.measure(Piece.CONSISTENCY, Piece.STARTS),
        )
    gaps = case.measure(Piece.TRAIN_ERROR, Piece.CONSISTENCY, Piece.STARTS)
    doubt = (
        "a policy that reproduces its demonstrations and reaches nothing may be given something else in rollouts"
        if fits and stuck is not None and stuck[0] == first_stage(case.evidence)
        else "too little was measured of the policy to tell training from the way it is evaluated"
    )
    return Verdict.UNDETERMINED, Cause.UNMEASURED_POLICY, f"{why}: {doubt}", gaps
