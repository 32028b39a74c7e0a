"""What a training of any policy gives back, or why it cannot go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


class TrainingError(ValueError):
    """Training that cannot start or go on."""


@dataclass
class TrainingResult:
    """What a run of training did.

    Attributes
    ----------
    first_step, last_step : gradient steps done before and after it.
    finished : whether ``last_step`` is the configuration's; False where it was asked to stop.
    checkpoints : those written, by step.
    losses : of each gradient step of this run.
    """

    first_step: int
    last_step: int
    finished: bool
    checkpoints: dict[int, Path] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
