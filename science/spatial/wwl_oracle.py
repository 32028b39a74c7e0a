"""The slow, independent check of RM-IDEAL: one pair of spots by its definition, with true optimal transport (POT).

Plain Python dictionaries and tuples, nothing shared with the closed form but the graph type. For tests, benchmarks
and asset checks on a sample of pairs; a few hundred pairs take a second.
"""

from __future__ import annotations

import numpy as np

from science.spatial.labelled_graph import LabelledGraph


def wwl_similarity(
    source: LabelledGraph, i: int, target: LabelledGraph, j: int, *, hops: int = 3, iterations: int = 3
) -> float:
    """1 - W1 between the niches of source spot i and target spot j (Togninalli et al., NeurIPS 2019, on niches).

    The ground distance of two spots is the share of the WL levels 0 to ``iterations`` at which their labels differ;
    each niche has uniform mass. Needs the package POT (``pip install POT``), which the extra ``test`` brings.
    """
    import ot

    names: dict[tuple, int] = {}
    labels_i = wl_labels(source, niche_of(source, i, hops), iterations, names)
    labels_j = wl_labels(target, niche_of(target, j, hops), iterations, names)
    return 1.0 - float(ot.emd2(*transport_problem(labels_i, labels_j)))


def niche_of(graph: LabelledGraph, spot: int, hops: int) -> list[int]:
    """Spots within so many steps of a spot, by breadth-first search."""
    niche, frontier = {spot}, {spot}
    for _ in range(hops):
        frontier = {other for node in frontier for other in _neighbours(graph, node)} - niche
        niche |= frontier
    return sorted(niche)


def wl_labels(graph: LabelledGraph, niche: list[int], iterations: int, names: dict[tuple, int]) -> np.ndarray:
    """WL labels inside the induced subgraph, int ``[iterations + 1, n_spots of the niche]``.

    ``names`` numbers what is labelled alike: at level 0 the code, later the label with the sorted labels around it.
    Graphs that are compared share it.
    """
    inside = set(niche)
    nearby = {node: [other for other in _neighbours(graph, node) if other in inside] for node in niche}

    def number(meaning: tuple) -> int:
        return names.setdefault(meaning, len(names))

    levels = [{node: number(("layer", int(graph.label[node]))) for node in niche}]
    for _ in range(iterations):
        last = levels[-1]
        levels.append({node: number((last[node], tuple(sorted(last[o] for o in nearby[node])))) for node in niche})
    return np.array([[level[node] for node in niche] for level in levels])


def transport_problem(labels_a: np.ndarray, labels_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses of both niches and the ground distance between their spots, as `ot.emd2` takes them."""
    n_a, n_b = labels_a.shape[1], labels_b.shape[1]
    distance = (labels_a[:, :, None] != labels_b[:, None, :]).mean(axis=0)
    return np.full(n_a, 1.0 / n_a), np.full(n_b, 1.0 / n_b), distance


def _neighbours(graph: LabelledGraph, node: int) -> list[int]:
    return graph.adjacency.indices[graph.adjacency.indptr[node] : graph.adjacency.indptr[node + 1]].tolist()
