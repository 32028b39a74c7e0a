"""Training failure or evaluation bug? The verdict on a rate, from its evidence.

The order of the rules is the order in which things must be true before the next question has an answer: the evaluator
must be able to say no and yes, it must feed the policy what it saw in training, the settings must be sound; only then
does a low rate speak of training. The first rule that applies decides; evidence that conflicts ends in UNDETERMINED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from science.robots.diagnosis import evaluation_rules, policy_rules
from science.robots.diagnosis.case import Case, Conclusion
from science.robots.diagnosis.evaluator_readings import read_evaluator
from science.robots.diagnosis.evidence import Evidence
from science.robots.diagnosis.facts import Facts
from science.robots.diagnosis.faults import config_faults
from science.robots.diagnosis.policy_readings import read_faults, read_policy, stuck_at
from science.robots.diagnosis.reasons import Verdict
from science.robots.diagnosis.report import Diagnosis


def diagnose(evidence: Evidence) -> Diagnosis:
    """The verdict on the policy's rate, with every reason for and against it.

    What is missing is named and never assumed; without the expert or replayed demonstrations through the same evaluator
    a low rate stays UNDETERMINED.
    """
    faults = config_faults(evidence.facts) if evidence.facts is not None else []
    reasons = {reason.piece: reason for reason in (*read_policy(evidence), *read_evaluator(evidence))}
    states = {piece: reason.state for piece, reason in reasons.items()}
    known = evidence.facts is not None and evidence.facts != Facts()
    settings, standing = read_faults(faults, states, known)
    case = Case(evidence, reasons, tuple(faults), tuple(standing))
    verdict, cause, why, steps = next(found for rule in _RULES if (found := rule(case)) is not None)
    attributed = [
        replace(reason, speaks_for=Verdict.CONFIGURATION)
        if reason.speaks_for is Verdict.EVALUATION and case.explaining(reason.piece)
        else reason
        for reason in reasons.values()
    ]
    stuck = stuck_at(evidence)
    summary = f"{_OPENING[verdict]} {_sentence(why)}"
    if verdict in (Verdict.TRAINING, Verdict.CONFIGURATION) and case.proof is not None:
        summary += f" {_sentence(case.proof)}"
    return Diagnosis(
        verdict=verdict,
        cause=cause,
        stage=stuck[0] if stuck else None,
        summary=summary,
        reasons=(*attributed, *settings),
        faults=tuple(faults),
        next_steps=tuple(dict.fromkeys(steps)),
        evidence=evidence,
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


_OPENING = {
    Verdict.HEALTHY: "The policy works.",
    Verdict.TRAINING: "The evaluator is sound; the policy was not trained well enough.",
    Verdict.CONFIGURATION: "A setting is at fault, neither the evaluator's code nor the amount of training.",
    Verdict.EVALUATION: "The evaluation is at fault: the rate says nothing about the policy.",
    Verdict.UNDETERMINED: "The evidence does not decide.",
}

_RULES: tuple[Callable[[Case], Conclusion | None], ...] = (
    evaluation_rules.success_test,
    evaluation_rules.crashes,
    evaluation_rules.expert_fails,
    evaluation_rules.policy_path,
    policy_rules.too_few,
    policy_rules.healthy,
    evaluation_rules.other_starts,
    evaluation_rules.replays_fail,
    evaluation_rules.other_than_selection,
    policy_rules.borderline,
    policy_rules.faulty_setting,
    evaluation_rules.unproven,
    policy_rules.regressed,
    policy_rules.does_not_fit,
    policy_rules.too_little_data,
    policy_rules.fits_in_part,
    policy_rules.fits_and_fails,
)
