"""Holds the rows that a replay published against those that were published before, and the artifacts that they name.

Rows are matched by the identity columns of their table, and where several agree in these, in the order in which they
stand; every other column is then held against its counterpart as its `compared` says. A column `<name>_artifact` is
compared by content; a column `<name>_hash` beside it says the same and is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from io_managers.artifacts import ArtifactStore
from io_managers.columns import EQUAL, VOLATILE, Column, TableSchema
from io_managers.content import content_hash
from replay.artifacts import LeafDifference, differing_leaves
from replay.values import same_bits, within
from replay.verdict import Difference, Verdict, verdict_of

ARTIFACT, HASH = "_artifact", "_hash"
ROWS = "rows"
_ORDINAL, _POSITION = "__ordinal", "__position"
_SHOWN = 3


@dataclass(frozen=True)
class Comparison:
    """What was held against what, and what differs.

    Attributes
    ----------
    rows : rows that both have.
    columns : columns that were compared; ``volatile`` ones were not, as their table declares.
    only_recorded, only_replayed : columns that one side lacks: the table's schema has changed since.
    artifacts, same_bytes : artifacts that rows point to, and those of them that are the same file.
    differences : the first of each column.
    """

    rows: int
    columns: tuple[str, ...]
    volatile: tuple[str, ...]
    only_recorded: tuple[str, ...]
    only_replayed: tuple[str, ...]
    artifacts: int
    same_bytes: int
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> Verdict:
        """Bit-equal, equal within the declared tolerances, or different."""
        return verdict_of(self.differences)


def compare(
    schema: TableSchema,
    recorded: pl.DataFrame,
    replayed: pl.DataFrame,
    recorded_artifacts: ArtifactStore,
    replayed_artifacts: ArtifactStore,
) -> Comparison:
    """Hold two versions of one partition against each other.

    Raises
    ------
    ArtifactError
        When an artifact that must be opened is missing or damaged.
    """
    return _Comparing(schema, recorded, replayed, recorded_artifacts, replayed_artifacts).compared()


class _Comparing:
    def __init__(
        self,
        schema: TableSchema,
        recorded: pl.DataFrame,
        replayed: pl.DataFrame,
        recorded_artifacts: ArtifactStore,
        replayed_artifacts: ArtifactStore,
    ):
        self._schema, self._recorded, self._replayed = schema, recorded, replayed
        self._stores = recorded_artifacts, replayed_artifacts
        self._leaves: dict[tuple[str, str], list[LeafDifference]] = {}
        both = [each for each in schema.columns if each.name in recorded.columns and each.name in replayed.columns]
        names = {each.name for each in both}
        self._volatile = [each.name for each in both if each.compared == VOLATILE]
        by_artifact = {name for name in names if name.endswith(HASH) and name.removesuffix(HASH) + ARTIFACT in names}
        self._columns = [each for each in both if each.compared != VOLATILE and each.name not in by_artifact]
        self._identity = self._usable_identity()

    def _usable_identity(self) -> list[str]:
        """The identity columns that match rows: no artifact, and none in which the two sides have nothing in common.

        An evaluation whose simulator is another one has another name in every row: that is ONE difference, in that
        column, and not as many missing rows.
        """
        named = [each.name for each in self._columns if each.name in self._schema.identity]
        named = [name for name in named if not name.endswith(ARTIFACT)]
        if not named or self._recorded.is_empty() or self._replayed.is_empty():
            return named
        if not self._recorded.join(self._replayed, on=named, how="semi", nulls_equal=True).is_empty():
            return named
        return [
            name
            for name in named
            if set(self._recorded[name].unique().to_list()) & set(self._replayed[name].unique().to_list())
        ]

    def compared(self) -> Comparison:
        differences = self._rows()
        pairs = self._pairs
        for column in self._columns:
            if column.name not in self._identity:
                differences += self._column(column, pairs)
        artifacts = [
            (a, b)
            for column in self._columns
            if column.name.endswith(ARTIFACT)
            for a, b in pairs.select(column.name, f"{column.name}_replayed").unique().iter_rows()
            if a is not None and b is not None
        ]
        recorded, replayed = set(self._recorded.columns), set(self._replayed.columns)
        return Comparison(
            pairs.height,
            tuple(each.name for each in self._columns),
            tuple(self._volatile),
            tuple(sorted(recorded - replayed)),
            tuple(sorted(replayed - recorded)),
            len(artifacts),
            sum(a == b for a, b in artifacts),
            tuple(differences),
        )

    @cached_property
    def _numbered(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Both frames with each row's position, and its number among those of the same identity."""
        frames = []
        for frame in (self._recorded, self._replayed):
            placed = frame.with_row_index(_POSITION)
            ordinal = pl.int_range(pl.len())
            ordinal = ordinal.over(self._identity) if self._identity else ordinal
            frames.append(placed.with_columns(ordinal.alias(_ORDINAL)))
        return frames[0], frames[1]

    @property
    def _key(self) -> list[str]:
        return [*self._identity, _ORDINAL]

    @cached_property
    def _pairs(self) -> pl.DataFrame:
        """Rows that both have, in the recorded order; replayed columns end in `_replayed`."""
        recorded, replayed = self._numbered
        joined = recorded.join(replayed, on=self._key, how="inner", nulls_equal=True, suffix="_replayed")
        return joined.sort(_POSITION)

    def _rows(self) -> list[Difference]:
        """Rows that only one side has, or that stand in another order."""
        recorded, replayed = self._numbered
        found = []
        for which, (one, other) in (("missing", (recorded, replayed)), ("too many", (replayed, recorded))):
            alone = one.join(other, on=self._key, how="anti", nulls_equal=True).sort(_POSITION)
            if alone.height:
                told = "; ".join(self._told(row) for row in alone.head(_SHOWN).iter_rows(named=True))
                told += "; ..." if alone.height > _SHOWN else ""
                found.append(Difference(ROWS, which, recorded.height, told, alone.height, one.height))
        moved = self._pairs.filter(pl.col(f"{_POSITION}_replayed").diff() < 0) if not found else self._pairs.clear()
        if moved.height:
            row = moved.row(0, named=True)
            there = (row[_POSITION], row[f"{_POSITION}_replayed"])
            found.append(Difference(self._told(row), "order of the rows", *there, moved.height, self._pairs.height))
        return found

    def _told(self, row: Mapping[str, Any]) -> str:
        named = ", ".join(f"{name}={_short(row[name])}" for name in self._identity if row[name] is not None)
        number = f"row {row[_POSITION]}"
        return f"{number} ({named})" if named else number

    def _column(self, column: Column, pairs: pl.DataFrame) -> list[Difference]:
        recorded, replayed = pairs[column.name], pairs[f"{column.name}_replayed"].alias(column.name)
        if content_hash(recorded.to_frame()) == content_hash(replayed.to_frame()):
            return []
        if column.name.endswith(ARTIFACT):
            return self._artifacts(column, recorded.to_list(), replayed.to_list())
        values = list(zip(recorded.to_list(), replayed.to_list(), strict=True))
        unequal = [index for index, (a, b) in enumerate(values) if not same_bits(a, b)]
        tolerance = None if column.compared == EQUAL else float(column.compared)
        beyond = [index for index in unequal if tolerance is None or not within(*values[index], tolerance)]
        counted = beyond or unequal
        if not counted:
            return []
        a, b, element = _first_element(*values[counted[0]])
        where = self._told(pairs.row(counted[0], named=True))
        allowed = None if beyond else tolerance
        return [Difference(where, column.name + element, a, b, len(counted), len(values), allowed)]

    def _artifacts(self, column: Column, recorded: Sequence[Any], replayed: Sequence[Any]) -> list[Difference]:
        tolerance = None if column.compared == EQUAL else float(column.compared)
        beyond: list[tuple[int, Any, Any, str]] = []
        allowed: list[tuple[int, Any, Any, str]] = []
        for index, (a, b) in enumerate(zip(recorded, replayed, strict=True)):
            if a is None or b is None:
                if a != b:
                    beyond.append((index, a, b, ""))
                continue
            leaves = self._differing_leaves(a, b)
            too_far = [each for each in leaves if not _allowed(each, tolerance)]
            if leaves:
                first, more = (too_far or leaves)[0], len(too_far or leaves) - 1
                found = (index, first.recorded, first.replayed, _told_leaf(first, more))
                (beyond if too_far else allowed).append(found)
        if not (beyond or allowed):
            return []
        index, a, b, told = (beyond or allowed)[0]
        where = self._told(self._pairs.row(index, named=True))
        count = len(beyond or allowed)
        return [Difference(where, column.name + told, a, b, count, len(recorded), None if beyond else tolerance)]

    def _differing_leaves(self, recorded: str, replayed: str) -> list[LeafDifference]:
        pair = recorded, replayed
        if pair not in self._leaves:
            paths = [store.verified(name) for store, name in zip(self._stores, pair, strict=True)]
            self._leaves[pair] = [] if recorded == replayed else differing_leaves(paths[0], paths[1])
        return self._leaves[pair]


def _allowed(leaf: LeafDifference, tolerance: float | None) -> bool:
    return tolerance is not None and leaf.deviation is not None and leaf.deviation <= tolerance


def _first_element(a: Any, b: Any) -> tuple[Any, Any, str]:
    """The first element at which two lists differ; two values themselves otherwise."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        index = next(index for index, (x, y) in enumerate(zip(a, b, strict=True)) if not same_bits(x, y))
        return a[index], b[index], f"[{index}]"
    return a, b, ""


def _told_leaf(leaf: LeafDifference, more: int) -> str:
    index = f"[{', '.join(map(str, leaf.index))}]" if leaf.index else ""
    count = f", {leaf.count} of {leaf.of} elements differ" if leaf.of > 1 else ""
    deviation = f", by at most {leaf.deviation:.3g}" if leaf.deviation is not None else ""
    others = f"; {more} more leaves differ" if more else ""
    return f" -> {leaf.leaf}{index}{count}{deviation}{others}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
