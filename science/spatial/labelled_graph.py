"""The neighbour graph of a section with one label code on every spot: what RM-IDEAL is defined on.

Here: the validated `LabelledGraph`, and how two sections become two graphs whose codes mean the same layers.
Not here: the graph itself (graph.py) and the niches cut out of it (niches.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from science.spatial.section import Section, SectionError


@dataclass(frozen=True)
class LabelledGraph:
    """An undirected graph whose nodes (spots) carry integer labels.

    Attributes
    ----------
    adjacency : CSR bool ``[n, n]``, symmetric, empty diagonal. Any SciPy sparse matrix is accepted and brought to
        canonical CSR (explicit zeros and duplicates removed, indices sorted). Spots without neighbours are allowed.
    label : int32 ``[n]``, codes >= 0. Graphs that are compared must share the meaning of the codes.

    Raises
    ------
    ValueError
        Shapes that disagree, no spots, labels that are no integers or are negative, an adjacency that is not
        symmetric or has a diagonal.
    """

    adjacency: sparse.csr_matrix
    label: np.ndarray

    def __post_init__(self) -> None:
        label = _checked_label(np.asarray(self.label))
        object.__setattr__(self, "adjacency", _checked_adjacency(self.adjacency, len(label)))
        object.__setattr__(self, "label", label)

    @property
    def n_spots(self) -> int:
        return len(self.label)


def labelled_graphs(source: Section, target: Section) -> tuple[LabelledGraph, LabelledGraph, np.ndarray, np.ndarray]:
    """Graphs of the labelled spots of two sections, with label codes shared by both.

    Unlabelled spots are left out together with their edges: they are holes in the graph.

    Returns
    -------
    source_graph, target_graph : LabelledGraph
    source_spots, target_spots : int64 ``[n_labelled]``, where each spot of a graph stands in its section.

    Raises
    ------
    SectionError
        A section has no labelled spot.
    """
    for section in (source, target):
        if not section.labelled.any():
            raise SectionError(
                f"Section {section.key} has no labels: none of its {section.n_spots} spots has a layer, and RM-IDEAL "
                f"compares layers. Add it again with its table of labels: "
                f"`tracebed section add {section.key} ... --labels TABLE`."
            )
    layers = np.union1d(source.layer[source.labelled], target.layer[target.labelled])
    source_spots, target_spots = np.flatnonzero(source.labelled), np.flatnonzero(target.labelled)
    return _graph_of(source, source_spots, layers), _graph_of(target, target_spots, layers), source_spots, target_spots


def _graph_of(section: Section, spots: np.ndarray, layers: np.ndarray) -> LabelledGraph:
    adjacency = sparse.csr_matrix(section.adjacency)[spots][:, spots]
    return LabelledGraph(adjacency, np.searchsorted(layers, section.layer[spots]).astype(np.int32))


def _checked_label(label: np.ndarray) -> np.ndarray:
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"label is {label.dtype} of shape {label.shape}; expected one integer code for each spot")
    if len(label) == 0:
        raise ValueError("the graph is empty: it has no spots; expected at least one labelled spot")
    if label.min() < 0:
        first = int(np.flatnonzero(label < 0)[0])
        raise ValueError(
            f"spot {first} has the negative label {label[first]}; expected codes >= 0: leave unlabelled spots out"
        )
    if label.max() > np.iinfo(np.int32).max:
        raise ValueError(f"the largest label is {label.max()}; expected codes that fit in int32")
    return np.ascontiguousarray(label, np.int32)


def _checked_adjacency(adjacency: sparse.spmatrix, n_spots: int) -> sparse.csr_matrix:
    if not sparse.issparse(adjacency):
        raise ValueError(f"adjacency is a {type(adjacency).__name__}; expected a SciPy sparse matrix")
    if adjacency.shape != (n_spots, n_spots):
        raise ValueError(f"adjacency has shape {adjacency.shape} and label {n_spots} codes; expected [n, n] and [n]")
    graph = sparse.csr_matrix(adjacency, copy=True)
    graph.data = graph.data != 0  # before duplicates are summed: weights of opposite sign must not cancel
    graph.sum_duplicates()
    graph.eliminate_zeros()
    loops = np.flatnonzero(graph.diagonal())
    if len(loops):
        raise ValueError(
            f"adjacency has a diagonal: {len(loops)} spots are their own neighbour, the first is {loops[0]}"
        )
    one_way = sparse.coo_matrix(graph != graph.T)
    if one_way.nnz:
        i, j = int(one_way.row[0]), int(one_way.col[0])
        raise ValueError(
            f"adjacency is not symmetric: of the edges {i} -> {j} and {j} -> {i} only one exists "
            f"({one_way.nnz // 2} such pairs); symmetrise it, for example with `a.maximum(a.T)`"
        )
    return graph
