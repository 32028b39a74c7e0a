"""The three ways in which a replay ends, and what a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How what was computed again compares with what was published."""

    BIT_EQUAL = "BIT-EQUAL"
    WITHIN_TOLERANCE = "EQUAL WITHIN TOLERANCE"
    DIFFERENT = "DIFFERENT"


@dataclass(frozen=True)
class Difference:
    """The first place where two values differ, in one column or one leaf of an artifact.

    Attributes
    ----------
    where : the row, by its identity columns (or its number); 'rows' where rows themselves are missing or too many.
    column : the column, and the leaf of the artifact that it points to.
    recorded, replayed : both values.
    count, of : how many differ, of how many.
    tolerance : what was allowed and kept; None where nothing was.
    """

    where: str
    column: str
    recorded: Any
    replayed: Any
    count: int
    of: int
    tolerance: float | None = None


def verdict_of(differences: Sequence[Difference]) -> Verdict:
    """The verdict on all that was found."""
    if any(each.tolerance is None for each in differences):
        return Verdict.DIFFERENT
    return Verdict.WITHIN_TOLERANCE if differences else Verdict.BIT_EQUAL
