"""Rules that find the evaluation at fault, or a setting that makes it so. Each answers a case or leaves it (None)."""

from __future__ import annotations

from science.robots.diagnosis.case import Case, Conclusion, contradiction, named, repairs
from science.robots.diagnosis.evaluator_readings import CHANCE_RATE
from science.robots.diagnosis.reasons import Piece, Verdict, said
from science.robots.diagnosis.report import Cause


def success_test(case: Case) -> Conclusion | None:
    """Doing nothing sensible succeeds, or an episode begins solved: no rate of this evaluator means anything."""
    broken = [piece for piece in (Piece.RANDOM, Piece.SOLVED_AT_RESET) if case.fails(piece)]
    if not broken:
        return None
    steps = ("test the task's success predicate on states that are known to be solved and unsolved",)
    return Verdict.EVALUATION, Cause.SUCCESS_TEST, case.text(*broken), (*steps, *case.measure(Piece.EXPERT))


def crashes(case: Case) -> Conclusion | None:
    """Most episodes raise: the crash is measured, not the policy."""
    if not case.fails(Piece.ERRORS):
        return None
    faults, why = case.explaining(Piece.ERRORS), case.text(Piece.ERRORS)
    if faults:
        return Verdict.CONFIGURATION, Cause.FAULTY_SETTING, f"{why}; {named(faults)}", repairs(faults)
    return Verdict.EVALUATION, Cause.CRASHES, why, ("repair what raises; the messages are in the rollouts",)


def expert_fails(case: Case) -> Conclusion | None:
    """The expert fails where it should not: success is not possible in this evaluator as it was elsewhere."""
    expert, rate = case.evidence.expert, case.rollouts.rate
    if expert is None or not case.fails(Piece.EXPERT):
        return None
    why = case.text(Piece.EXPERT)
    if rate.low > expert.rate.high:
        return contradiction(
            f"{why}; yet the policy succeeded in {said(case.rollouts)}, more than the expert",
            "find out what the expert is given that the policy is not, and record its own rate again",
        )
    if case.passes(Piece.REPLAYS) and case.evidence.expert_recording is None:
        return contradiction(
            f"{why}; yet {case.text(Piece.REPLAYS)}, and nothing says that this expert ever succeeded",
            "record the expert's own success rate, or use a better expert",
        )
    blamed = repairs(tuple(fault for fault in case.standing if fault.explains))
    steps = (*blamed, "find what differs between this evaluator and the recording of the demonstrations")
    return Verdict.EVALUATION, Cause.EXPERT_FAILS, why, (*steps, *case.measure(Piece.REPLAYS, Piece.STARTS))


def policy_path(case: Case) -> Conclusion | None:
    """What meets the policy alone is broken: its observation, its hidden state, or what becomes of its actions."""
    if not case.fails(Piece.CONSISTENCY):
        return None
    why, faults = case.text(Piece.CONSISTENCY), case.explaining(Piece.CONSISTENCY)
    if case.high:
        return contradiction(
            f"{why}; yet the policy succeeded in {said(case.rollouts)}",
            "check how the recorded observations and actions were compared",
        )
    if faults:
        return Verdict.CONFIGURATION, Cause.FAULTY_SETTING, f"{why}; {named(faults)}", repairs(faults)
    steps = (
        "reset the policy's hidden state at every episode's start",
        "compare the observation that the policy is given, key by key, with the recorded one",
    )
    return Verdict.EVALUATION, Cause.POLICY_PATH, why, steps


def replays_fail(case: Case) -> Conclusion | None:
    """Actions that succeeded no longer do: environment, controller or action scale are not the demonstrations'."""
    if not case.fails(Piece.REPLAYS):
        return None
    why, faults = case.text(Piece.REPLAYS), case.explaining(Piece.REPLAYS)
    if faults:
        return Verdict.CONFIGURATION, Cause.FAULTY_SETTING, f"{why}; {named(faults)}", repairs(faults)
    if case.rollouts.rate.low > CHANCE_RATE and case.other_versions:
        return contradiction(
            f"{why}; yet the policy succeeded in {said(case.rollouts)}, and the versions differ "
            f"({named(case.other_versions)}), which alone can make replays miss",
            "replay on the versions of the demonstrations",
        )
    steps = ("compare controller, action scale and control frequency with the demonstrations' env_args",)
    return Verdict.EVALUATION, Cause.REPLAYS_FAIL, why, steps


def other_starts(case: Case) -> Conclusion | None:
    """Episodes start, or are observed, where no demonstration was."""
    if not case.fails(Piece.STARTS):
        return None
    why, faults = case.text(Piece.STARTS), case.explaining(Piece.STARTS)
    if faults:
        return Verdict.CONFIGURATION, Cause.FAULTY_SETTING, f"{why}; {named(faults)}", repairs(faults)
    steps = ("compare the reset ranges and the observations of evaluation and demonstrations, element by element",)
    return Verdict.EVALUATION, Cause.OTHER_STARTS, why, steps


def other_than_selection(case: Case) -> Conclusion | None:
    """The same checkpoint was far better when it was chosen, and no setting explains it."""
    if not case.fails(Piece.SELECTION) or case.standing:
        return None
    steps = ("run the evaluated checkpoint again on the seeds on which it was chosen",)
    return Verdict.EVALUATION, Cause.OTHER_THAN_SELECTION, case.text(Piece.SELECTION), steps


def unproven(case: Case) -> Conclusion | None:
    """Nothing shows that success is possible in this evaluator, so a low rate may be its own fault."""
    succeeds = case.rollouts.rate.low > CHANCE_RATE and case.passes(Piece.RANDOM)
    if (
        case.admitted is not None
        or succeeds
        or case.reasons[Piece.SUCCESS_CURVE].speaks_against
        or case.fails(Piece.SUCCESS_CURVE)
    ):
        return None
    why = (
        f"{case.text(Piece.RATE)}; nothing shows that success is possible in this evaluator ({case.text(Piece.EXPERT)})"
    )
    steps = case.measure(Piece.EXPERT, Piece.REPLAYS, Piece.TRAIN_ERROR)
    return Verdict.UNDETERMINED, Cause.UNPROVEN_EVALUATOR, why, steps or ("run the expert on more seeds",)
