"""What an audit is about: everything, or some published partitions with all that they were computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from io_managers.derived_views import SUPERSEDED
from provenance.audit.records_on_disk import RecordFile
from provenance.audit.tables_on_disk import TableFile, Version
from provenance.records import UnknownValue


@dataclass(frozen=True)
class Scope:
    """What is held against what.

    Attributes
    ----------
    everything : there is no selection.
    selected : asset and partition of what was selected: all their records, versions and events are looked at.
    reached : what the newest versions of these (and every version of a metric, which may have been printed) stand on,
        themselves included.
    """

    everything: bool
    selected: frozenset[tuple[str, str]]
    reached: frozenset[Version]

    def holds(self, version: Version) -> bool:
        """Whether a record, an event or a file of this publication is looked at."""
        return self.everything or version in self.reached or version[:2] in self.selected


def scope_of(
    selection: Sequence[str],
    files: Sequence[TableFile],
    records: Mapping[Version, RecordFile],
    events: Iterable[Version],
) -> Scope:
    """The scope of a selection: asset keys, prefixes or globs, each perhaps with `:partition`.

    Raises
    ------
    UnknownValue
        For a selection that fits nothing; lists the assets.
    """
    published = {each.version for each in files if each.is_newest and each.of_an_asset}
    there = {version[:2] for version in (*published, *records, *events)}
    selected = {where for wanted in selection for where in _fitting(wanted, there)} if selection else there
    metrics = {each.version for each in files if each.table in SUPERSEDED and not each.problem}
    roots = [version for version in published | metrics if version[:2] in selected]
    return Scope(not selection, frozenset(selected), _closure(roots, records))


def _fitting(wanted: str, there: set[tuple[str, str]]) -> set[tuple[str, str]]:
    asset, colon, partition = wanted.partition(":")
    fitting = {each for each in there if _fits(each[0], asset) and (not colon or fnmatchcase(each[1], partition))}
    if fitting:
        return fitting
    partitions = sorted(each[1] for each in there if _fits(each[0], asset))
    if partitions:
        listed = ", ".join(each or "(none: it has no partitions)" for each in partitions[:40])
        raise UnknownValue(f"found partition {partition!r} of {asset}, expected one that was materialised: {listed}")
    listed = "\n".join(f"  - {each}" for each in sorted({name for name, _ in there})) or "  - nothing"
    raise UnknownValue(f"found selection {wanted!r}, expected an asset, a prefix or a glob of these:\n{listed}")


def _fits(asset: str, wanted: str) -> bool:
    return fnmatchcase(asset, wanted) or asset.startswith(f"{wanted.rstrip('/')}/")


def _closure(roots: Sequence[Version], records: Mapping[Version, RecordFile]) -> frozenset[Version]:
    reached: set[Version] = set()
    waiting = list(roots)
    while waiting:
        version = waiting.pop()
        if version in reached:
            continue
        reached.add(version)
        if version in records:
            waiting += records[version].parents
    return frozenset(reached)
