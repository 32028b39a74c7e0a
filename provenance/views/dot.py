"""A trace as Graphviz source: `tracebed trace ... --dot | dot -Tsvg > trace.svg`.

The number stands at the top; arrows go from what was read to what was made of it. What is superseded is red and dashed,
what could not be followed has an orange border.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from provenance.lineage import FILE
from provenance.tree import CARRIED, Node, Trace
from provenance.views.explained import kind_of
from provenance.views.values import numbers, short_hashes
from provenance.views.wording import heading

_TEXT_LENGTH = 84


def as_dot(trace: Trace) -> str:
    """The trace as a directed graph."""
    lines = [
        "digraph trace {",
        f"  label={_quoted([heading(trace)])};",
        '  rankdir=BT; labelloc=t; fontname="sans-serif";',
        '  node [shape=box, style="filled,rounded", fillcolor="white", fontname="sans-serif", fontsize=10];',
        '  edge [fontname="sans-serif", fontsize=9];',
        *(f"  {line}" for line in _statements(trace)),
        "}",
    ]
    return "\n".join(lines)


def _statements(trace: Trace) -> Iterator[str]:
    for node in trace.nodes.values():
        yield f"{_quoted([node.id])} [label={_quoted(_label(trace, node))}{_style(trace, node)}];"
    for node in trace.nodes.values():
        for edge in node.inputs:
            how = ' [label="rows carried over", style=dashed]' if edge.how == CARRIED else ""
            yield f"{_quoted([edge.node])} -> {_quoted([node.id])}{how};"


def _label(trace: Trace, node: Node) -> list[str]:
    told = [each.told for each in numbers(trace)[:3]] if node.id == trace.root else []
    told = told or [f"{each.label}: {each.text}" for each in node.facts[:1] if node.asset != FILE]
    hashed = f"{'sha256' if node.asset == FILE else 'content'} {node.content_hash[:12]}"
    title = PurePath(node.address).name if node.asset == FILE else node.title
    lines = [kind_of(node).name, title, *told, hashed]
    if node.superseded:
        lines.append(f"SUPERSEDED: {node.superseded}")
    return [_cut(each) for each in lines + [f"! {each}" for each in node.problems]]


def _cut(text: str) -> str:
    text = short_hashes(text)
    return text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 1] + "…"


def _style(trace: Trace, node: Node) -> str:
    if node.superseded:
        return ', style="filled,rounded,dashed", color="#b00020", fillcolor="#fde7e9", fontcolor="#b00020"'
    if node.problems:
        return ', color="#b35c00", fillcolor="#fff4e5"'
    if node.id == trace.root:
        return ', penwidth=2, fillcolor="#e8f0fe"'
    return ', shape=note, style=filled, fillcolor="#f4f4f4"' if node.asset == FILE else ""


def _quoted(lines: list[str]) -> str:
    """A quoted string of the DOT language: a backslash is escaped too, or `\\N` would stand for the node's name."""
    escaped = [each.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for each in lines]
    return '"' + "\\n".join(escaped) + '"'
