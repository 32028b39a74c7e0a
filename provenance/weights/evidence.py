"""One piece of evidence on where weights come from, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The ladder: of two kinds that disagree, the earlier one is nearer to the weights themselves."""

    FINGERPRINT = "fingerprint"
    LOG = "log"
    CONFIG = "config"
    CHAIN = "chain"


class Says(StrEnum):
    """What a piece of evidence does to a candidate."""

    SUPPORTS = "supports"
    CONTRADICTS = "contradicts"
    NOTHING = "says nothing"


class Verdict(StrEnum):
    """What all evidence together says of a candidate."""

    PROVEN = "PROVEN"
    CONTRADICTED = "CONTRADICTED"
    UNDETERMINED = "UNDETERMINED"


@dataclass(frozen=True)
class Evidence:
    """One piece of evidence.

    Attributes
    ----------
    level : its kind.
    attempt : the training attempt that it is of; None for the weights themselves.
    found : what was read.
    says : what it does, to ``about``.
    about : a candidate, or `scratch`; None where it says nothing.
    why : why it says this, or why it says nothing.
    """

    level: Level
    attempt: str | None
    found: str
    says: Says
    about: str | None
    why: str

    def line(self) -> str:
        """In words."""
        of = f" of {self.attempt}" if self.attempt else ""
        said = f"{self.says} {self.about}" if self.about else str(self.says)
        return f"{self.level}{of}: {self.found}: {said} ({self.why})"
