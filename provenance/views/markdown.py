"""A trace as a Markdown table for Dagster's UI, where it is an entry of a materialisation: one row a hop, with links.

Dagster's Markdown shows tables and links; it strips HTML, SVG and links to files. Whatever comes from outside is
escaped: a partition key holds `|`, which would end a cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePath
from urllib.parse import quote

import polars as pl

from provenance.facts import Fact
from provenance.lineage import FILE, Record
from provenance.tree import CARRIED, READ, Edge, Node, Trace
from provenance.views.values import short_hashes
from provenance.views.wording import heading

_ROWS, _FACTS, _FACT_LENGTH = 40, 3, 160
_RUN = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&#!])")

ArtifactUrl = Callable[[str], str]
"""Where an artifact is shown; raises ValueError for one that is not."""

Moment = Callable[[Node], int | None]
"""When Dagster logged the materialisation of a node, in milliseconds since 1970; None where it is not known."""


def as_markdown(
    trace: Trace, base: str = "", artifact_url: ArtifactUrl | None = None, moment: Moment | None = None
) -> str:
    """The trace as a table.

    Parameters
    ----------
    base : address of Dagster's UI; '' for links within it.
    artifact_url : where artifacts are shown; without it they are not linked.
    moment : when a node was materialised. With it the asset's page opens at exactly that event; without it a node
        links to its run only, because the page would open at the newest one.
    """
    lines = []
    if trace.superseded:
        lines += ["**SUPERSEDED**: this is not what would be computed now", ""]
        lines += [*(f"- {_escaped(each)}" for each in trace.superseded), ""]
    lines += ["| what | says | content | made by |", "|---|---|---|---|"]
    hops = list(trace.walk())
    links = _Links(base, artifact_url, moment)
    lines += [_row(depth, edge, node, repeated, links) for depth, edge, node, repeated in hops[:_ROWS]]
    if len(hops) > _ROWS:
        lines += ["", f"{len(hops) - _ROWS} more rows: `tracebed trace` shows all of {_escaped(heading(trace))}"]
    if trace.problems:
        lines += ["", "Could not be followed or read:", "", *(f"- {_escaped(each)}" for each in trace.problems)]
    return "\n".join(lines)


def direct_inputs(record: Record) -> Trace:
    """The first level of a trace, from a record alone: for a leaderboard, which stands on everything there is.

    Each of its inputs carries its own trace.
    """
    root = Node(
        record.asset, record.asset, record.partition, record.content_hash, record.run_id, record.address, record
    )
    nodes = [
        Node(f"{number} {each.asset}", each.asset, each.partition, each.content_hash, each.run_id, each.address)
        for number, each in enumerate(record.inputs)
    ]
    root.facts = [Fact("stands on", f"{len(nodes)} direct inputs; the materialisation of each shows its own trace")]
    root.inputs = [Edge(each.id, READ) for each in nodes]
    return Trace(root.id, {}, pl.DataFrame(), {each.id: each for each in (root, *nodes)})


class _Links:
    def __init__(self, base: str, artifact_url: ArtifactUrl | None, moment: Moment | None):
        self._base, self._artifact_url, self._moment = base.rstrip("/"), artifact_url, moment

    def asset(self, node: Node) -> str | None:
        """The page of the asset at exactly this materialisation."""
        at = self._moment(node) if self._moment is not None and _RUN.fullmatch(node.run_id or "") else None
        if at is None:
            return None
        partition = f"&partition={quote(node.partition, safe='')}" if node.partition else ""
        return f"{self._base}/assets/{quote(node.asset)}?view=events{partition}&asOf={at}"

    def run(self, node: Node) -> str | None:
        """The page of the run; None for what no run made."""
        return f"{self._base}/runs/{node.run_id}" if _RUN.fullmatch(node.run_id or "") else None

    def artifact(self, fact: Fact) -> str | None:
        """The artifact of a fact, where it is shown."""
        if fact.artifact is None or self._artifact_url is None:
            return None
        try:
            return self._artifact_url(fact.artifact)
        except ValueError:  # a type that is not served
            return None


def _row(depth: int, edge: Edge, node: Node, repeated: bool, links: _Links) -> str:
    indent = "\u00a0" * 3 * (depth - 1) + "└ " if depth else ""
    how = f"{edge.how} " if edge.how == CARRIED else ""
    title = f"file {PurePath(node.address).name}" if node.asset == FILE else node.title
    what = indent + how + _linked(title, links.asset(node) if depth and not repeated else None)
    if repeated:
        return f"| {what} | (above) | `{node.content_hash[:12]}` | |"
    says = "; ".join(_says(node, links))
    return f"| {what} | {says} | `{node.content_hash[:12]}` | {', '.join(_made_by(node, links))} |"


def _says(node: Node, links: _Links) -> Iterator[str]:
    if node.superseded:
        yield f"**SUPERSEDED: {_escaped(node.superseded)}**"
    for fact in node.facts[:_FACTS]:
        text = short_hashes(fact.text)
        text = text if len(text) <= _FACT_LENGTH else text[:_FACT_LENGTH] + "…"
        yield f"{_linked(fact.label, links.artifact(fact))}: {_escaped(text)}"
    if len(node.facts) > _FACTS:
        yield f"and {len(node.facts) - _FACTS} more"


def _made_by(node: Node, links: _Links) -> Iterator[str]:
    if node.run_id:
        run = links.run(node)
        yield f"run {_linked(node.run_id[:8], run)}" if run else _escaped(node.run_id)
    if node.record is None:
        return
    yield f"code {_escaped(node.record.code_version)}"
    if node.job is not None and "site" in node.job:
        yield _escaped(f"site {node.job['site']}")
    yield f"{node.record.recorded_at:%Y-%m-%d %H:%M:%S} UTC"


def _linked(text: str, address: str | None) -> str:
    return _escaped(text) if address is None else f"[{_escaped(text)}]({address})"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\n", " ")
