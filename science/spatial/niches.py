"""Niches of a section and their Weisfeiler-Lehman (WL) label histograms: the preparation that RM-IDEAL compares.

The niche of a spot is the subgraph induced by all spots within k hops, and its WL labels are refined INSIDE it.
Two spots whose niches have the same multiset of last-level labels have equal histograms at every level (labels are
nested), so only distinct niches are kept. Not here: the comparison (rm_ideal.py, top_k.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import numpy.typing as npt

from science.spatial.labelled_graph import LabelledGraph
from science.spatial.niche_overlap import InvertedIndex, invert
from science.spatial.wl_labels import Histograms, SequenceTable, empty_table, label_niches


@dataclass(frozen=True)
class NicheHistograms:
    """The distinct niches of a section, as histograms of WL labels at levels 0 to H.

    Prepare a section once with `niche_histograms`, then compare it as often as wanted: `rm_ideal` and `top_k` take it
    in place of the target's graph.

    Attributes
    ----------
    hops, iterations : k and H of the definition.
    niche : int32 ``[n_spots]``, the distinct niche of each spot, numbered in order of first appearance.
    histograms : of each distinct niche, label counts at every level.
    composition : int32 ``[n_niches]``, the layer composition (histogram at level 0) of each distinct niche, numbered.
    n_known : labels below this number belong to the dictionary of another section, with which this one was labelled.
    n_labels : labels known in all.
    dictionary : keys of the labels from ``n_known`` on. A key at level t + 1 is the label at level t followed by the
        sorted labels of the neighbours inside the niche; a key at level 0 is ``-1 - code``.
    """

    hops: int
    iterations: int
    niche: np.ndarray
    histograms: Histograms
    composition: np.ndarray
    n_known: int
    n_labels: int
    dictionary: SequenceTable

    @property
    def n_niches(self) -> int:
        return len(self.composition)

    @property
    def n_levels(self) -> int:
        return self.iterations + 1

    @cached_property
    def by_label(self) -> InvertedIndex:
        """Niches that hold each label; for a section labelled with its own dictionary. Built on first use."""
        # The key of a label begins with the label that it refines; at level 0, with a negative number.
        parent = np.maximum(self.dictionary.key[self.dictionary.start[: self.n_labels - self.n_known]], -1)
        return invert(self.histograms, self.n_levels, parent)

    @cached_property
    def niches_by_composition(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct niches of each composition: starts ``[n_compositions + 1]``, niches ``[n_niches]``, int64."""
        return _members(self.composition)

    @cached_property
    def compositions(self) -> Histograms:
        """Histogram at level 0 of each composition, side by side (niches of a composition lie far apart in memory)."""
        start, niche = self.niches_by_composition
        first = niche[start[:-1]] * self.n_levels
        length = self.histograms.start[first + 1] - self.histograms.start[first]
        ends = np.cumsum(length)
        entries = np.arange(ends[-1]) + np.repeat(self.histograms.start[first] - ends + length, length)
        return Histograms(
            self.histograms.size[niche[start[:-1]]],
            np.concatenate([[0], ends]),
            self.histograms.label[entries],
            self.histograms.carriers[entries],
        )

    @cached_property
    def spots_by_niche(self) -> tuple[np.ndarray, np.ndarray]:
        """Spots of each distinct niche, ascending: starts ``[n_niches + 1]``, spots ``[n_spots]``, int64."""
        return _members(self.niche)


def niche_histograms(
    graph: LabelledGraph,
    *,
    hops: int = 3,
    iterations: int = 3,
    spots: npt.ArrayLike | None = None,
    labels_of: NicheHistograms | None = None,
) -> NicheHistograms:
    """Cut out the niches of a section, label them, and keep the distinct ones.

    Parameters
    ----------
    graph : the section.
    hops : radius k of a niche in steps of the graph; 0 is the spot alone.
    iterations : H, how often labels are refined; 0 compares only the layers.
    spots : int ``[n_spots]``, the spots whose niches are wanted (default: all, in order). ``niche`` follows them.
    labels_of : a prepared section whose dictionary is used first, so that labels of both can be compared. It is not
        changed: labels that it lacks get numbers from its ``n_labels`` on.

    Raises
    ------
    ValueError
        Hops or iterations that are negative or no integers; a spot outside the graph; ``labels_of`` prepared with
        other hops or iterations, or itself labelled with a third section's dictionary.
    """
    for name, value in (("hops", hops), ("iterations", iterations)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} is {value!r}; expected an integer >= 0")
    if labels_of is not None:
        require_definition(labels_of, hops, iterations)
        if labels_of.n_known:
            raise ValueError("labels_of was itself labelled with another section's dictionary; prepare it on its own")
    centres = np.arange(graph.n_spots) if spots is None else checked_spots(spots, graph.n_spots)
    n_known = 0 if labels_of is None else labels_of.n_labels
    niche, histograms, composition, dictionary, n_own = label_niches(
        graph.adjacency.indptr.astype(np.int64),
        graph.adjacency.indices.astype(np.int32),
        graph.label,
        centres.astype(np.int64),
        int(hops),
        int(iterations) + 1,
        empty_table() if labels_of is None else labels_of.dictionary,
        n_known,
    )
    return NicheHistograms(
        int(hops), int(iterations), niche, histograms, composition, n_known, n_known + n_own, dictionary
    )


def require_definition(prepared: NicheHistograms, hops: int, iterations: int) -> None:
    """Refuse a section that was prepared with another k or H than the comparison asks for."""
    if (prepared.hops, prepared.iterations) != (hops, iterations):
        raise ValueError(
            f"the section was prepared with hops={prepared.hops}, iterations={prepared.iterations}, and the comparison "
            f"asks for hops={hops}, iterations={iterations}; prepare it again with those"
        )


def checked_spots(spots: npt.ArrayLike, n_spots: int) -> np.ndarray:
    """Return spot indices as an array, after checking that each lies in the graph."""
    checked = np.atleast_1d(np.asarray(spots))
    if checked.size == 0:
        return np.empty(0, np.int64)
    if checked.ndim != 1 or not np.issubdtype(checked.dtype, np.integer):
        raise ValueError(f"spots are {checked.dtype} of shape {checked.shape}; expected a list of integer indices")
    if checked.min() < 0 or checked.max() >= n_spots:
        raise ValueError(f"spots run from {checked.min()} to {checked.max()}; the graph has spots 0 to {n_spots - 1}")
    return checked


def _members(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.concatenate([[0], np.cumsum(np.bincount(group))])
    return start, np.argsort(group, kind="stable")
