"""How far from the number each thing stands: the order in which a reader meets it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from provenance.tree import Node, Trace


def in_reading_order(trace: Trace) -> list[Node]:
    """The nodes by their longest way from the number: each after everything that was made of it, cycles apart."""
    depth = depths(trace.root, {node.id: [edge.node for edge in node.inputs] for node in trace.nodes.values()})
    return sorted(trace.nodes.values(), key=lambda node: depth.get(node.id, len(depth)))


def depths(root: str, reads: Mapping[str, Collection[str]]) -> Mapping[str, int]:
    """The length of the longest way from ``root`` to each name that it reaches, arrows that close a cycle left out."""
    finished, closing = _walk(root, reads)
    depth = {root: 0}
    for name in reversed(finished):
        for each in reads[name]:
            if (name, each) not in closing:
                depth[each] = max(depth.get(each, 0), depth[name] + 1)
    return depth


def _walk(root: str, reads: Mapping[str, Collection[str]]) -> tuple[list[str], set[tuple[str, str]]]:
    """The names, each after all that it reads; and the arrows that close a cycle."""
    finished: list[str] = []
    closing: set[tuple[str, str]] = set()
    is_open = {root: True}
    stack = [(root, iter(reads[root]))]
    while stack:
        name, rest = stack[-1]
        for each in rest:
            if each not in is_open:
                is_open[each] = True
                stack.append((each, iter(reads[each])))
                break
            if is_open[each]:
                closing.add((name, each))
        else:
            is_open[name] = False
            finished.append(name)
            stack.pop()
    return finished, closing
