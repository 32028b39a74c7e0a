"""A case: the evidence as it was read, and what several rules ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from science.robots.diagnosis.evidence import Counts, Evidence
from science.robots.diagnosis.facts import Fault
from science.robots.diagnosis.reasons import HEALTHY_RATE, MIN_ROLLOUTS, Piece, Reason, State, Verdict
from science.robots.diagnosis.report import Cause

Conclusion = tuple[Verdict, Cause, str, tuple[str, ...]]
"""Verdict, cause, why in words, and what to do."""


MEASURE = {
    Piece.EXPERT: "run the scripted expert through the same evaluator (20 seeds)",
    Piece.RANDOM: "run the random policy through the same evaluator (5 to 20 seeds)",
    Piece.REPLAYS: "replay the demonstrations' recorded actions through the same evaluator",
    Piece.CONSISTENCY: "ask the policy again for the first observations of recorded rollouts and compare its actions",
    Piece.STARTS: "compare the first observations of rollouts and demonstrations",
    Piece.TRAIN_ERROR: "measure the action error on the training demonstrations, through the policy that is evaluated",
    Piece.VALID_ERROR: "measure the action error on demonstrations that were kept out of training",
    Piece.LOSS: "record the training loss",
}


@dataclass(frozen=True)
class Case:
    """The evidence, read."""

    evidence: Evidence
    reasons: Mapping[Piece, Reason]
    faults: tuple[Fault, ...]
    standing: tuple[Fault, ...]

    def state(self, piece: Piece) -> State:
        return self.reasons[piece].state

    def passes(self, piece: Piece) -> bool:
        return self.state(piece) is State.PASSES

    def fails(self, piece: Piece) -> bool:
        return self.state(piece) is State.FAILS

    def text(self, *pieces: Piece) -> str:
        """What was found, in words."""
        return "; ".join(self.reasons[piece].text for piece in pieces)

    def explaining(self, piece: Piece) -> tuple[Fault, ...]:
        """The standing faults that would explain a piece that fails."""
        return tuple(fault for fault in self.standing if piece in fault.explains)

    @property
    def other_versions(self) -> tuple[Fault, ...]:
        """The faults that are only another version of what computes the physics."""
        return tuple(fault for fault in self.faults if fault.name in ("mujoco", "robosuite"))

    @property
    def rollouts(self) -> Counts:
        return self.evidence.rollouts

    @property
    def admitted(self) -> Counts | None:
        """What shows the rate that the evaluator admits: the expert, else the replays, where they pass."""
        if self.passes(Piece.EXPERT):
            return self.evidence.expert
        return self.evidence.replays if self.passes(Piece.REPLAYS) else None

    @property
    def low(self) -> bool:
        """The rate is clearly below one half, or below what the evaluator admits."""
        admitted, rate = self.admitted, self.rollouts.rate
        return rate.high < HEALTHY_RATE or (admitted is not None and rate.high < admitted.rate.low)

    @property
    def high(self) -> bool:
        """The rate is clearly above one half, or no lower than the expert's interval."""
        rate = self.rollouts.rate
        if self.rollouts.n < MIN_ROLLOUTS or rate.value is None:
            return False
        expert = self.evidence.expert if self.passes(Piece.EXPERT) else None
        return rate.low >= HEALTHY_RATE or (expert is not None and rate.value >= expert.rate.low)

    @property
    def proof(self) -> str | None:
        """What shows that success is possible in this evaluator, in words."""
        proven = [piece for piece in (Piece.EXPERT, Piece.REPLAYS) if self.passes(piece)]
        return self.text(*proven) if proven else None

    def measure(self, *pieces: Piece) -> tuple[str, ...]:
        """Steps that fill the gaps among these pieces."""
        return tuple(MEASURE[piece] for piece in pieces if self.state(piece) is State.MISSING)


def repairs(faults: tuple[Fault, ...]) -> tuple[str, ...]:
    """What to do about faults."""
    return tuple(f"{fault.name}: {fault.do}" for fault in faults)


def named(faults: tuple[Fault, ...]) -> str:
    """Faults in words."""
    return "; ".join(f"{fault.name}: found {fault.found}, expected {fault.expected}" for fault in faults)


def contradiction(why: str, *steps: str) -> Conclusion:
    """Evidence that conflicts."""
    return Verdict.UNDETERMINED, Cause.CONTRADICTORY, why, steps
