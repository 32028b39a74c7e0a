"""A trace as a tree of lines, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from provenance.tree import CARRIED, Edge, Node, Trace
from provenance.views.wording import computed, heading, versions

_SHORT = {"run": 8, "git commit": 12}


def as_text(trace: Trace) -> str:
    """The whole trace, with what is wrong with it at the end."""
    lines = [heading(trace)]
    if trace.superseded:
        lines += ["SUPERSEDED: this is not what would be computed now", *(f"  - {each}" for each in trace.superseded)]
    lines += ["", *_tree(trace, Edge(trace.root, ""), "", "", set())]
    shared, differ = versions(trace)
    lines += ["", "versions: " + ", ".join(f"{name} {found}" for name, found in shared.items())]
    lines += [f"  other: {each}" for each in differ]
    if trace.problems:
        lines += ["", "could not be followed or read:", *(f"  - {each}" for each in trace.problems)]
    return "\n".join(lines)


def _tree(trace: Trace, edge: Edge, first: str, rest: str, seen: set[str]) -> Iterator[str]:
    node = trace.nodes[edge.node]
    how = f"{edge.how} " if edge.how == CARRIED else ""
    if node.id in seen:
        yield f"{first}{how}{node.title}  {_content(node)} (above)"
        return
    seen.add(node.id)
    yield f"{first}{how}{node.title}  {_content(node)}{_state(node)}"
    inside = rest + ("│  " if node.inputs else "   ")
    for fact in () if all_carried(node) else node.facts:
        yield f"{inside}{fact.label}: {fact.text}"
    if told := computed(node):
        yield inside + " · ".join(_brief(label, text) for label, text in told)
    for number, each in enumerate(node.inputs, 1):
        last = number == len(node.inputs)
        yield from _tree(trace, each, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), seen)


def all_carried(node: Node) -> bool:
    """Whether its rows were made by an earlier version, which says what they are."""
    return bool(node.inputs) and all(each.how == CARRIED for each in node.inputs)


def _content(node: Node) -> str:
    return f"sha256 {node.content_hash[:12]}" if node.asset == "file" else f"content {node.content_hash[:12]}"


def _state(node: Node) -> str:
    if node.superseded:
        return f"  [SUPERSEDED: {node.superseded}]"
    return "" if node.newest or node.asset == "file" else "  [a newer version holds the same rows]"


def _brief(label: str, text: str) -> str:
    if label == "computed":
        return text
    if label == "job" and text.startswith("none"):
        return "no job"
    cut = _SHORT.get(label)
    shown = text[:cut] + ("+dirty" if cut and text.endswith("+dirty") else "") if cut else text
    return f"{label} {shown}"
