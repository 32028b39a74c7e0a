"""The k target spots with the highest RM-IDEAL for a few query spots, exactly, among very many.

Labels are nested, so the overlap I_t of two niches can only fall from level to level, and their layer compositions
alone bound the similarity: I_0 / (H + 1) <= S <= I_0. Target niches of one composition share that bound. Groups are
visited from the highest I_0 downwards; one whose I_0 is below the k-th best found cannot hold a better niche.
For all pairs of two sections see rm_ideal.py.
"""

from __future__ import annotations

from numbers import Integral

import numpy as np
import numpy.typing as npt

from science.spatial.labelled_graph import LabelledGraph
from science.spatial.niche_overlap import best_spots, overlap_dtype
from science.spatial.niches import NicheHistograms, checked_spots, niche_histograms, require_definition


def top_k(
    source: LabelledGraph,
    target: LabelledGraph | NicheHistograms,
    queries: npt.ArrayLike,
    k: int,
    *,
    hops: int = 3,
    iterations: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most similar target spots of each query, best first; of equal ones the lower index comes first.

    Parameters
    ----------
    source : graph that the queries are spots of; may be the target itself.
    target : graph to search, or its `niche_histograms`: for many spots the preparation is most of the work.
    queries : int ``[n_queries]``, spots of the source.
    k : number of spots wanted, at most the spots of the target.
    hops, iterations : k and H of the definition.

    Returns
    -------
    spot : int64 ``[n_queries, k]``, indices into the target.
    similarity : float64 ``[n_queries, k]``, the very numbers that `rm_ideal` gives in float64.

    Raises
    ------
    ValueError
        A query that is no spot of the source, k below 1 or above the target's spots, hops or iterations that are
        negative or differ from those the target was prepared with.
    """
    asked_spots = checked_spots(queries, source.n_spots)
    if isinstance(target, NicheHistograms):
        require_definition(target, hops, iterations)
    else:
        target = niche_histograms(target, hops=hops, iterations=iterations)
    if not isinstance(k, Integral) or not 1 <= k <= len(target.niche):
        raise ValueError(f"k is {k!r}; expected an integer from 1 to {len(target.niche)}, the spots of the target")
    asked = niche_histograms(source, hops=hops, iterations=iterations, spots=asked_spots, labels_of=target)
    spot, similarity = best_spots(
        asked.histograms,
        target.histograms,
        target.by_label,
        target.histograms.size.astype(overlap_dtype(target.n_levels, asked.histograms, target.histograms)),
        target.compositions,
        *target.niches_by_composition,
        *target.spots_by_niche,
        target.n_levels,
        int(k),
    )
    return spot[asked.niche], similarity[asked.niche]
