"""Inputs that several policy workloads read, and pictures as metadata."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.job import Job


class NoCheckpoint(ValueError):
    """A checkpoint that was asked for and is not there."""


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint to evaluate: its verified file, and its row of table `checkpoint`."""

    path: Path
    row: dict[str, Any]


def chosen_checkpoint(job: Job, step: int | None = None) -> ChosenCheckpoint:
    """The chosen checkpoint, or the newest kept one of a step.

    Raises
    ------
    NoCheckpoint
        When no checkpoint of that step is kept; the message lists those that are.
    """
    rows = job.input("checkpoint").frame().to_dicts()
    wanted = [row for row in rows if (row["chosen"] if step is None else row["step"] == step)]
    if not wanted:
        there = sorted({row["step"] for row in rows if row["step"] is not None})
        raise NoCheckpoint(f"no kept checkpoint has step {step}; there are steps {there}")
    row = max(wanted, key=lambda each: each["recorded_at"])
    return ChosenCheckpoint(job.artifact(row["checkpoint_artifact"]), row)


def inline_png(png: bytes, caption: str) -> str:
    """A PNG as Markdown that Dagster's UI shows."""
    return f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})"
