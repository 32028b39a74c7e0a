"""RM-IDEAL: how alike two spots' niches are, exactly and in closed form, for all pairs of spots of two sections.

The definition is this project's own, faithful to the benchmark metric of QueST (arXiv 2410.10652) on the WWL graph
kernel (Togninalli et al., NeurIPS 2019): S = 1 - W1 between the niches' spots, with uniform mass on each niche and as
ground distance the share of the WL levels 0 to H at which two spots' labels differ. Labels are nested, so that
distance is an ultrametric and the transport has a closed form: S = 1/(H+1) sum_t sum_label min(h_t^a, h_t^b).
Here: all pairs. Preparation is in niches.py, the few best of very many in top_k.py, the check in wwl_oracle.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from science.spatial.labelled_graph import LabelledGraph, labelled_graphs
from science.spatial.niche_overlap import compare, overlap_dtype
from science.spatial.niches import NicheHistograms, niche_histograms, require_definition
from science.spatial.top_k import top_k

__all__ = ["FactoredSimilarity", "LabelledGraph", "labelled_graphs", "niche_similarity", "rm_ideal", "top_k"]


@dataclass(frozen=True)
class FactoredSimilarity:
    """RM-IDEAL of all pairs of spots, stored once for each pair of distinct niches.

    Attributes
    ----------
    similarity : float ``[n_source_niches, n_target_niches]`` in [0, 1]; 1 where the niches cannot be told apart.
    source_niche : int32 ``[n_source]``, row of each source spot.
    target_niche : int32 ``[n_target]``, column of each target spot.
    """

    similarity: np.ndarray
    source_niche: np.ndarray
    target_niche: np.ndarray

    def dense(self) -> np.ndarray:
        """Similarity of all pairs of spots, ``[n_source, n_target]``."""
        return self.rows(np.arange(len(self.source_niche)))

    def rows(self, source: npt.ArrayLike) -> np.ndarray:
        """Similarity of the given source spots to all target spots, ``[len(source), n_target]``."""
        return np.take(self.similarity[self.source_niche[np.asarray(source, np.int64)]], self.target_niche, axis=1)


def rm_ideal(
    source: LabelledGraph,
    target: LabelledGraph | NicheHistograms,
    *,
    hops: int = 3,
    iterations: int = 3,
    dtype: type[np.floating] = np.float32,
) -> FactoredSimilarity:
    """RM-IDEAL of every source spot with every target spot.

    Exact: overlaps are summed as integers and divided once, so equal similarities are equal numbers, S(a, b) is
    S(b, a) to the last bit, and float32 is the rounded float64. The result takes ``n_source_niches x
    n_target_niches`` numbers; for very large sections ask `top_k` for the few best.

    Parameters
    ----------
    source, target : graphs with a shared meaning of the codes (`labelled_graphs`). The target may also be prepared
        (`niche_histograms`), to be compared with several sources.
    hops : niche radius k, steps. iterations : WL refinements H. The defaults are the benchmark's.
    dtype : np.float32 or np.float64.

    Raises
    ------
    ValueError
        Hops or iterations that are negative, or differ from those the target was prepared with; another dtype.
    """
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype is {np.dtype(dtype)}; expected float32 or float64")
    if isinstance(target, NicheHistograms):
        require_definition(target, hops, iterations)
    else:
        target = niche_histograms(target, hops=hops, iterations=iterations)
    prepared = niche_histograms(source, hops=hops, iterations=iterations, labels_of=target)
    return FactoredSimilarity(niche_similarity(prepared, target, dtype=dtype), prepared.niche, target.niche)


def niche_similarity(
    source: NicheHistograms, target: NicheHistograms, *, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Similarity of the distinct niches, ``[n_source_niches, n_target_niches]``: the pair kernel.

    Raises
    ------
    ValueError
        The source was not labelled with the target's dictionary (``niche_histograms(..., labels_of=target)``).
    """
    if target.n_known or source.n_known != target.n_labels:
        raise ValueError("the source was not labelled with this target's dictionary: prepare it with labels_of=target")
    similarity = np.empty((source.n_niches, target.n_niches), dtype)
    target_size = target.histograms.size.astype(overlap_dtype(target.n_levels, source.histograms, target.histograms))
    compare(source.histograms, target.by_label, target_size, target.n_levels, similarity)
    return similarity
