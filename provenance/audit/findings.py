"""What an audit says: findings, with what was found, what was expected and what to do; and what it could not check.

A finding fails the audit. What could not be checked does not, and is never left out either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Every kind of finding; the value is the name that is shown, and that `--ignore` takes."""

    CHANGED_ARTIFACT = "changed artifact"
    MISSING_ARTIFACT = "missing artifact"
    ORPHAN_ARTIFACT = "orphan artifact"
    EDITED_TABLE = "edited table"
    DAMAGED_TABLE = "damaged table"
    MISPLACED_TABLE = "misplaced table"
    ORPHAN_TABLE = "orphan table"
    MISSING_PARTITION = "missing partition"
    MISSING_VERSION = "missing version"
    REPLACED_PARTITION = "replaced partition"
    RECORD_WITHOUT_EVENT = "record without event"
    EVENT_WITHOUT_RECORD = "event without record"
    DISAGREEMENT = "record and event disagree"
    MISSING_HOP = "missing hop"
    CYCLE = "cycle"
    OLDER_INPUT = "older input"
    CHANGED_SOURCE = "changed source file"
    MISSING_SOURCE = "missing source file"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was recorded.

    Attributes
    ----------
    asset, partition : what it concerns; empty where that is not known ('' is also the partition of an asset without).
    file : the file, or the database, that was looked at; empty where it is no file.
    found, expected, to_do : in words.
    """

    kind: Kind
    asset: str
    partition: str
    file: str
    found: str
    expected: str
    to_do: str

    @property
    def subject(self) -> str:
        """Asset and partition, or the file where no asset is known."""
        if not self.asset:
            return self.file
        return f"{self.asset} [{self.partition}]" if self.partition else self.asset


@dataclass(frozen=True)
class NotChecked:
    """What an audit could not hold against anything: what, why, and how many of it."""

    what: str
    reason: str
    n: int = 1


@dataclass
class Counts:
    """What was looked at.

    Attributes
    ----------
    partitions : newest published partitions.
    versions : version files of tables, the newest among them, each once.
    records, events : lineage records, and materialisations in Dagster's event log.
    artifacts, sources : files that were held against their hash.
    bytes_hashed : bytes that were read and hashed now.
    bytes_unchanged : bytes whose file's stat is the same as when they were hashed before.
    """

    partitions: int = 0
    versions: int = 0
    records: int = 0
    events: int = 0
    artifacts: int = 0
    sources: int = 0
    bytes_hashed: int = 0
    bytes_unchanged: int = 0


@dataclass(frozen=True)
class AuditReport:
    """What an audit found."""

    findings: tuple[Finding, ...]
    not_checked: tuple[NotChecked, ...]
    counts: Counts = field(default_factory=Counts)

    @property
    def clean(self) -> bool:
        """Whether everything that could be checked is as it was recorded."""
        return not self.findings

    def ignoring(self, kinds: Collection[Kind]) -> AuditReport:
        """The report without findings of some kinds, which it names as not checked."""
        kept = tuple(each for each in self.findings if each.kind not in kinds)
        n = Counter(each.kind for each in self.findings)
        left_out = [
            NotChecked(f"findings of kind {kind!s}", "ignored, as was asked", n[kind]) for kind in sorted(kinds)
        ]
        return AuditReport(kept, (*self.not_checked, *left_out), self.counts)

    def of(self, asset: str) -> tuple[Finding, ...]:
        """The findings of one asset."""
        return tuple(each for each in self.findings if each.asset == asset)

    def described(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "clean": self.clean,
            "counts": asdict(self.counts),
            "findings": [asdict(each) | {"kind": str(each.kind)} for each in self.findings],
            "not_checked": [asdict(each) for each in self.not_checked],
        }
