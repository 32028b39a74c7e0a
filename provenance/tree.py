"""What a trace is: the tree below one number, of nodes that each are one version of one partition, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from provenance.facts import Fact
from provenance.lineage import FILE, Record

READ, CARRIED = "read", "carried over from"


@dataclass(frozen=True)
class Edge:
    """An input of a node: `read`, or rows `carried over from` an earlier version of the same partition."""

    node: str
    how: str


@dataclass
class Node:
    """One version of one partition, or a file, that the number stands on.

    Attributes
    ----------
    id : unique within the trace.
    asset, partition, content_hash, run_id, address : what it is; asset `file` for a file from outside.
    record : its lineage; None for a file or a registration, or where it was lost.
    job : the submission that computed it (row of table `jobs`); None where the run itself did.
    n_rows : rows that the number stands on; None where they cannot be read.
    facts : what they say, for a reader.
    newest : whether these rows are what is published now. current : whether this very version of them is.
    superseded : why the rows are not what is published now; empty where they are.
    problems : what could not be followed or read.
    """

    id: str
    asset: str
    partition: str
    content_hash: str
    run_id: str | None
    address: str
    record: Record | None = None
    job: Mapping[str, Any] | None = None
    n_rows: int | None = None
    facts: list[Fact] = field(default_factory=list)
    newest: bool = True
    current: bool = False
    superseded: str = ""
    problems: list[str] = field(default_factory=list)
    inputs: list[Edge] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Asset and partition."""
        if self.asset == FILE:
            return f"file {self.address}"
        return f"{self.asset} [{self.partition}]" if self.partition else self.asset


@dataclass(frozen=True)
class Trace:
    """The tree below one number; nodes that several others read stand in it once.

    Attributes
    ----------
    root : id of the node that holds the number.
    where : the columns that chose its rows.
    value : those rows.
    nodes : by id, each before what it was made from.
    """

    root: str
    where: Mapping[str, str]
    value: pl.DataFrame
    nodes: Mapping[str, Node]

    @property
    def superseded(self) -> list[str]:
        """Why the number is not what would be computed now; empty where it is."""
        return [f"{each.title}: {each.superseded}" for each in self.nodes.values() if each.superseded]

    @property
    def problems(self) -> list[str]:
        """What could not be followed or read."""
        return [f"{each.title}: {problem}" for each in self.nodes.values() for problem in each.problems]

    def walk(self) -> Iterator[tuple[int, Edge, Node, bool]]:
        """Depth, edge, node, and whether it was shown before, in the order of reading."""
        seen: set[str] = set()
        stack = [(0, Edge(self.root, READ))]
        while stack:
            depth, edge = stack.pop()
            repeated = edge.node in seen
            yield depth, edge, self.nodes[edge.node], repeated
            seen.add(edge.node)
            if not repeated:
                stack += [(depth + 1, each) for each in reversed(self.nodes[edge.node].inputs)]
