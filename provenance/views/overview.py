"""The hops of a trace as a small drawing (inline SVG): one box a kind of thing, the number at the top.

Several nodes of one kind share a box, so that a leaderboard over a hundred pairs still fits on a page. An arrow that a
longer way shows as well is left out; what each thing read is in the list of hops.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from textwrap import wrap

from provenance.lineage import FILE
from provenance.tree import Node, Trace
from provenance.views.explained import kind_of, table_name
from provenance.views.levels import depths

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _LINE = 172, 44, 16, 30, 14
_CHARACTERS = 25


@dataclass(frozen=True)
class _Box:
    name: str
    nodes: Sequence[Node]

    @property
    def lines(self) -> list[str]:
        kind, node = kind_of(self.nodes[0]), self.nodes[0]
        if len(self.nodes) > 1:
            return wrap(f"{len(self.nodes)} {kind.plural}", _CHARACTERS)[:2]
        below = PurePath(node.address).name if node.asset == FILE else (node.partition or node.asset)
        return [
            *wrap(kind.name, _CHARACTERS)[:1],
            below if len(below) <= _CHARACTERS else below[: _CHARACTERS - 1] + "…",
        ]


def overview(trace: Trace, anchors: Mapping[str, str]) -> str:
    """The drawing; each box links to the first of its nodes, by ``anchors`` (node id -> fragment)."""
    boxes = _boxes(trace)
    edges = _edges(trace)
    layers = _layers(table_name(trace.nodes[trace.root]), boxes, edges)
    widest = max(len(each) for each in layers)
    width = widest * (_WIDTH + _GAP_X) + _GAP_X
    height = len(layers) * (_HEIGHT + _GAP_Y) - _GAP_Y + 4
    places = {
        name: (
            (width - len(layer) * (_WIDTH + _GAP_X) + _GAP_X) / 2 + column * (_WIDTH + _GAP_X),
            2 + row * (_HEIGHT + _GAP_Y),
        )
        for row, layer in enumerate(layers)
        for column, name in enumerate(layer)
    }
    arrows = "".join(_arrow(places[made], places[read]) for made, read in _drawn(edges))
    drawn = "".join(_box(trace, boxes[name], place, anchors) for name, place in places.items())
    return (
        f'<svg class="overview" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="What the number was made from">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" class="tip"/></marker></defs>{arrows}{drawn}</svg>'
    )


def _boxes(trace: Trace) -> Mapping[str, _Box]:
    nodes: dict[str, list[Node]] = defaultdict(list)
    for node in trace.nodes.values():
        nodes[table_name(node)].append(node)
    return {name: _Box(name, each) for name, each in nodes.items()}


def _edges(trace: Trace) -> Mapping[str, list[str]]:
    """Which kinds each kind was made of."""
    edges: dict[str, list[str]] = {table_name(node): [] for node in trace.nodes.values()}
    for node in trace.nodes.values():
        for edge in node.inputs:
            read = table_name(trace.nodes[edge.node])
            if read != table_name(node) and read not in edges[table_name(node)]:
                edges[table_name(node)].append(read)
    return edges


def _drawn(edges: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """The arrows without those that a longer way shows as well."""
    return [
        (made, read)
        for made in edges
        for read in edges[made]
        if not any(read in depths(other, edges) for other in edges[made] if other != read)
    ]


def _layers(root: str, boxes: Mapping[str, _Box], edges: Mapping[str, list[str]]) -> list[list[str]]:
    """Kinds by their longest way from the number; within a layer below what was made of them."""
    depth = depths(root, edges)
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in boxes:
        layers[depth[name]].append(name)
    centre = {root: 0.0}
    for layer in layers[1:]:
        above = {
            name: [centre[made] for made in edges if name in edges[made] and made in centre] or [0.0] for name in layer
        }
        layer.sort(key=lambda name: sum(above[name]) / len(above[name]))
        centre |= {name: column - (len(layer) - 1) / 2 for column, name in enumerate(layer)}
    return layers


def _arrow(made: tuple[float, float], read: tuple[float, float]) -> str:
    start_x, start_y = read[0] + _WIDTH / 2, read[1]
    end_x, end_y = made[0] + _WIDTH / 2, made[1] + _HEIGHT + 1
    middle = (start_y + end_y) / 2
    return (
        f'<path class="arrow" marker-end="url(#tip)" d="M{start_x:.0f},{start_y:.0f} C{start_x:.0f},{middle:.0f} '
        f'{end_x:.0f},{middle:.0f} {end_x:.0f},{end_y:.0f}"/>'
    )


def _box(trace: Trace, box: _Box, place: tuple[float, float], anchors: Mapping[str, str]) -> str:
    x, y = place
    state = " old" if any(each.superseded for each in box.nodes) else ""
    state += " number" if any(each.id == trace.root for each in box.nodes) else ""
    state += " file" if box.name == FILE else ""
    lines = box.lines
    top = y + _HEIGHT / 2 - _LINE * (len(lines) - 1) / 2 + 4
    text = "".join(
        f'<text x="{x + _WIDTH / 2:.0f}" y="{top + _LINE * number:.0f}"{" class=name" if number == 0 else ""}>'
        f"{html.escape(line)}</text>"
        for number, line in enumerate(lines)
    )
    return (
        f'<a href="#{html.escape(anchors[box.nodes[0].id])}"><rect class="box{state}" x="{x:.0f}" y="{y:.0f}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>{text}</a>'
    )
