"""The words of a diagnosis: verdicts, pieces of evidence, and one piece read.

The figures that thresholds quote, here and in the readings, were measured with BC-RNN on Lift with 40 scripted
demonstrations (960 steps of training unless another number is given) and 20 rollouts a policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from science.robots.diagnosis.evidence import Counts
from science.robots.statistics import Interval

MIN_ROLLOUTS = 10
"""Fewer episodes give intervals wider than 0.5 around a middling rate: no verdict is made of them."""


HEALTHY_RATE = 0.5
"""A policy is called healthy, and an expert proof, when the interval's lower bound is at least this."""


class Verdict(StrEnum):
    """Whose fault a rate is."""

    HEALTHY = "HEALTHY"
    TRAINING = "TRAINING"
    CONFIGURATION = "CONFIGURATION"
    EVALUATION = "EVALUATION"
    UNDETERMINED = "UNDETERMINED"


class State(StrEnum):
    """Whether a piece of evidence is as it should be."""

    PASSES = "passes"
    FAILS = "fails"
    UNCLEAR = "unclear"
    MISSING = "missing"


class Piece(StrEnum):
    """Pieces of evidence."""

    RATE = "rate"
    STAGE = "stage"
    ERRORS = "errors"
    SOLVED_AT_RESET = "solved_at_reset"
    RANDOM = "random"
    EXPERT = "expert"
    REPLAYS = "replays"
    CONSISTENCY = "consistency"
    STARTS = "starts"
    TRAIN_ERROR = "train_error"
    VALID_ERROR = "valid_error"
    LOSS = "loss"
    SUCCESS_CURVE = "success_curve"
    SELECTION = "selection"
    BUDGET = "budget"
    DEMONSTRATIONS = "demonstrations"
    SETTINGS = "settings"


@dataclass(frozen=True)
class Reason:
    """One piece of evidence, read.

    Attributes
    ----------
    piece, state : what was measured, and whether it is as it should be.
    text : in words, with its numbers; for a missing piece, what it would tell.
    interval, n : behind the number, where it is a rate of ``n``. value : where it is not.
    speaks_for, speaks_against : the verdict, if any.
    """

    piece: Piece
    state: State
    text: str
    interval: Interval | None = None
    n: int | None = None
    value: float | None = None
    speaks_for: Verdict | None = None
    speaks_against: Verdict | None = None

    def stance(self, verdict: Verdict) -> str:
        """`supports`, `contradicts` or nothing, towards a verdict."""
        if verdict is Verdict.UNDETERMINED:
            return ""
        if verdict is self.speaks_against or (self.speaks_for is not None and self.speaks_for is not verdict):
            return "contradicts"
        return "supports" if self.speaks_for is verdict or self.speaks_against is not None else ""


def missing(piece: Piece, text: str) -> Reason:
    """A piece that was not measured; ``text`` says what it would tell."""
    return Reason(piece, State.MISSING, text)


def counted(piece: Piece, state: State, text: str, counts: Counts, **speaks: Verdict | None) -> Reason:
    """A piece that is a rate."""
    return Reason(piece, state, text, counts.rate, counts.n, counts.rate.value, **speaks)


def said(counts: Counts) -> str:
    """Counts in words: `7 of 20 (35 %, 95 % interval 18 to 57 %)`, errors and the like added."""
    rate = counts.rate
    text = f"{counts.successes} of {counts.n}"
    if rate.value is not None:
        text += f" ({_percent(rate.value)} %, 95 % interval {_percent(rate.low)} to {_percent(rate.high)} %)"
    extra = [f"{counts.errors} errors"] * bool(counts.errors)
    extra += [f"{counts.solved_at_reset} solved at reset"] * bool(counts.solved_at_reset)
    return text + (f", and {' and '.join(extra)}" if extra else "")


def _percent(share: float) -> str:
    """Whole percents, with two digits below 10 %: the bound of 0 of 250 is 1.5."""
    return f"{100 * share:.0f}" if share > 0.0995 else f"{100 * share:.2g}"
