"""A diagnosis, and how it is shown: a verdict in words, its evidence as a table, and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from science.robots.diagnosis.evidence import Evidence
from science.robots.diagnosis.facts import Fault
from science.robots.diagnosis.reasons import Reason, State, Verdict


class Cause(StrEnum):
    """What stands behind a verdict."""

    CAPABLE = "capable"
    UNDERFITTED = "underfitted"
    TOO_LITTLE_DATA = "too_little_data"
    STUCK = "stuck"
    COMPOUNDING_ERROR = "compounding_error"
    REGRESSED = "regressed"
    FAULTY_SETTING = "faulty_setting"
    NOT_WHAT_WAS_TRAINED = "not_what_was_trained"
    SUCCESS_TEST = "success_test"
    CRASHES = "crashes"
    EXPERT_FAILS = "expert_fails"
    REPLAYS_FAIL = "replays_fail"
    POLICY_PATH = "policy_path"
    OTHER_STARTS = "other_starts"
    OTHER_THAN_SELECTION = "other_than_selection"
    TOO_FEW_ROLLOUTS = "too_few_rollouts"
    BORDERLINE = "borderline"
    NEVER_SAID_NO = "never_said_no"
    UNPROVEN_EVALUATOR = "unproven_evaluator"
    UNMEASURED_POLICY = "unmeasured_policy"
    CONTRADICTORY = "contradictory"


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on a rate, with what it rests on.

    Attributes
    ----------
    verdict, cause : whose fault the rate is, and of which kind.
    stage : where most failures stop; None without a failure that has a stage.
    summary : the verdict in words, with its numbers.
    reasons : every piece of evidence, read; missing ones too.
    faults : of the settings, fatal ones first.
    next_steps : what to do, most useful first.
    evidence : what it was made of.
    """

    verdict: Verdict
    cause: Cause
    stage: str | None
    summary: str
    reasons: Sequence[Reason]
    faults: Sequence[Fault]
    next_steps: Sequence[str]
    evidence: Evidence

    @property
    def missing(self) -> list[Reason]:
        """Evidence that was not measured."""
        return [reason for reason in self.reasons if reason.state is State.MISSING]

    def speaking_for(self, verdict: Verdict) -> list[Reason]:
        """The reasons that speak for a verdict, whether or not it is the one given."""
        return [reason for reason in self.reasons if reason.speaks_for is verdict]

    def markdown(self) -> str:
        """The diagnosis for a reader: verdict, evidence with numbers and intervals, what is missing, what to do."""
        of = " of ".join(f"`{name}`" for name in (self.evidence.policy, self.evidence.task) if name)
        at = f", stuck at `{self.stage}`" if self.stage and self.verdict is Verdict.TRAINING else ""
        lines = [f"## {self.verdict}{at}" + (f": {of}" if of else ""), "", self.summary, ""]
        measured = [reason for reason in self.reasons if reason.state is not State.MISSING]
        lines += [
            "| evidence | state | what was found | 95 % interval | n | speaks for |",
            "|---|---|---|---|---:|---|",
        ]
        lines += [_row(reason, self.verdict) for reason in measured]
        if self.missing:
            lines += ["", "Not measured:", "", *(f"- {reason.piece}: {_cell(reason.text)}" for reason in self.missing)]
        if self.next_steps:
            lines += ["", "Next:", "", *(f"{number}. {step}" for number, step in enumerate(self.next_steps, 1))]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Everything, the evidence among it, as JSON types."""
        return {
            "verdict": str(self.verdict),
            "cause": str(self.cause),
            "stage": self.stage,
            "summary": self.summary,
            "reasons": [_json_types(reason) | {"stance": reason.stance(self.verdict)} for reason in self.reasons],
            "faults": _json_types(self.faults),
            "next_steps": list(self.next_steps),
            "evidence": _json_types(self.evidence),
        }

    def to_json(self) -> str:
        """`as_dict` as JSON text; numbers that are not finite become null."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)


def _row(reason: Reason, verdict: Verdict) -> str:
    interval = f"{reason.interval.low:.3f} to {reason.interval.high:.3f}" if reason.interval is not None else ""
    speaks = str(reason.speaks_for or "") or (f"not {reason.speaks_against}" if reason.speaks_against else "")
    if reason.stance(verdict) == "contradicts":
        speaks += " (contradicts)"
    n = "" if reason.n is None else str(reason.n)
    return f"| {reason.piece} | {reason.state} | {_cell(reason.text)} | {interval} | {n} | {speaks} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _json_types(value: Any) -> Any:
    """Dataclasses, mappings, sequences and NumPy's numbers as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json_types(item) for key, item in value.items()}
    if isinstance(value, Sequence | frozenset) and not isinstance(value, str):
        return [_json_types(item) for item in (sorted(value) if isinstance(value, frozenset) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)
