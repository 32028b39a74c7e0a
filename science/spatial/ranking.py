"""Ranks and retrieval with ties, compiled: the inner loops of `metrics.py`, which says what they mean.

Spearman takes average ranks, retrieval the exact expectation over random orders of tied targets (McSherry & Najork
2008, ECIR, LNCS 4956:414). Values closer than a tolerance are tied, for rounding alone must not order them.
All orders are ascending argsorts; columns of RM-IDEAL stand for distinct niches and carry how many targets have each.
"""

import numba
import numpy as np

# RM-IDEAL summed as floats splits ties in the last bits: 11 % more distinct values in a row than there are.
# `rm_ideal.py` sums integers and does not; a reference from elsewhere may. Rounding to float32 leaves at most 8e-8
# between equals, but values that truly differ lie at least 5e-6 apart (151673 x 151676, 3 hops, 3 iterations).
SIMILARITY_TIE = 2e-7
COSINE_TIE = 1e-12
MIN_POSITIVE_TARGETS = 3


class CosineOrder:
    """Cosines of queries with all targets, and their order.

    Targets of equal embedding are sorted once: the vectorised sort is three times slower on rows full of ties, and an
    oracle of compositions has few distinct rows.

    Parameters
    ----------
    unit_target : float64 ``[n_target, d]``, rows of norm 1.
    """

    def __init__(self, unit_target: np.ndarray) -> None:
        distinct, column = np.unique(unit_target, axis=0, return_inverse=True)
        self._all_differ = len(distinct) == len(unit_target)
        self._distinct = unit_target if self._all_differ else distinct
        self._column = column.reshape(-1)
        self._members = np.argsort(self._column, kind="stable")
        self._start = np.concatenate([[0], np.cumsum(np.bincount(self._column))])

    def __call__(self, unit_query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines float64 ``[n_query, n_target]`` and their ascending order, int64 of the same shape."""
        cosine = unit_query @ self._distinct.T
        order = np.argsort(cosine, axis=1)
        if self._all_differ:
            return cosine, order
        return np.take(cosine, self._column, axis=1), _expand(order, self._members, self._start)


@numba.njit(cache=True)
def _expand(order, members, start):
    """Orders of distinct rows as orders of all members of each."""
    expanded = np.empty((len(order), len(members)), np.int64)
    for i in range(len(order)):
        place = 0
        for row in order[i]:
            for member in range(start[row], start[row + 1]):
                expanded[i, place] = members[member]
                place += 1
    return expanded


@numba.njit(cache=True)
def midranks(values, order, weight, tolerance, rank):
    """Write to ``rank`` the centred average ranks of ``values[order]``, each with a multiplicity; sum of squares."""
    total = 0.0
    for i in order:
        total += weight[i]
    squares, below, start = 0.0, 0.0, 0
    while start < len(order):
        stop, size = start, 0.0
        while stop < len(order) and (stop == start or values[order[stop]] - values[order[stop - 1]] <= tolerance):
            size += weight[order[stop]]
            stop += 1
        centred = below + 0.5 * size - 0.5 * total
        for i in range(start, stop):
            rank[order[i]] = centred
        squares += size * centred * centred
        below += size
        start = stop
    return squares


@numba.njit(cache=True)
def correlate_rows(a, a_order, b, b_order, b_column, b_size, a_tolerance, b_tolerance):
    """Spearman of the rows of a ``[r, n]`` and of b ``[r, m]``, spread to n by ``b_column``; NaN: one is constant."""
    one, a_rank, b_rank = np.ones(a.shape[1]), np.empty(a.shape[1]), np.empty(b.shape[1])
    rho = np.full(len(a), np.nan)
    for i in range(len(a)):
        a_squares = midranks(a[i], a_order[i], one, a_tolerance, a_rank)
        b_squares = midranks(b[i], b_order[i], b_size, b_tolerance, b_rank)
        if a_squares > 0 and b_squares > 0:
            product = 0.0
            for j in range(a.shape[1]):
                product += a_rank[j] * b_rank[b_column[j]]
            rho[i] = min(1.0, max(-1.0, product / np.sqrt(a_squares * b_squares)))
    return rho


@numba.njit(cache=True)
def retrieval_weights(cosine, order, k, weight):
    """Chance of each target to be among the first ``k`` when tied targets stand in random order."""
    n = len(order)
    low = high = n - k
    while low > 0 and cosine[order[low]] - cosine[order[low - 1]] <= COSINE_TIE:
        low -= 1
    while high < n - 1 and cosine[order[high + 1]] - cosine[order[high]] <= COSINE_TIE:
        high += 1
    share = (k - (n - 1 - high)) / (high - low + 1)
    for i in range(n):
        weight[order[i]] = 0.0 if i < low else (1.0 if i > high else share)


@numba.njit(cache=True)
def relevance_floor(similarity, order, size, k):
    """Smallest similarity that is relevant: the ``k``-th largest over all targets, with its ties, and above 0."""
    position, above = len(order) - 1, size[order[-1]]
    while above < k:
        position -= 1
        above += size[order[position]]
    while position > 0 and similarity[order[position]] - similarity[order[position - 1]] <= SIMILARITY_TIE:
        position -= 1
    return max(similarity[order[position]], SIMILARITY_TIE)


@numba.njit(cache=True)
def score_queries(cosine, order, similarity, niche_order, niche, target_niche, niche_size, source_code, target_code, k):
    """Columns A, A_positive, precision, same label, concentration of each query; niches are ranked when they change."""
    n = cosine.shape[1]
    one, cosine_rank, weight = np.ones(n), np.empty(n), np.empty(n)
    niche_rank, positive_order = np.empty(similarity.shape[1]), np.empty(n, order.dtype)
    found = np.full((len(cosine), 5), np.nan)
    last, squares, floor = -1, 0.0, 0.0
    for q in range(len(cosine)):
        row = similarity[niche[q]]
        if niche[q] != last:
            last = niche[q]
            squares = midranks(row, niche_order[last], niche_size, SIMILARITY_TIE, niche_rank)
            floor = relevance_floor(row, niche_order[last], niche_size, k)
        cosine_squares = midranks(cosine[q], order[q], one, COSINE_TIE, cosine_rank)
        retrieval_weights(cosine[q], order[q], k, weight)
        product, mass, kept_mass, relevant, same = 0.0, 0.0, 0.0, 0.0, 0.0
        n_positive = 0
        for i in range(n):
            j = order[q, i]
            s = row[target_niche[j]]
            product += cosine_rank[j] * niche_rank[target_niche[j]]
            same += weight[j] * (target_code[j] == source_code[q])
            if s > SIMILARITY_TIE:
                positive_order[n_positive] = j
                n_positive += 1
                mass += s
                kept_mass += weight[j] * s
                relevant += weight[j] * (s >= floor)
        if squares > 0 and cosine_squares > 0:
            found[q, 0] = min(1.0, max(-1.0, product / np.sqrt(squares * cosine_squares)))
        if n_positive >= MIN_POSITIVE_TARGETS:
            found[q, 1] = _positive_correlation(
                cosine[q], positive_order[:n_positive], one, cosine_rank, niche_rank, target_niche
            )
        found[q, 3] = same / k
        if mass > 0:
            found[q, 2] = relevant / k
            found[q, 4] = min(1.0, kept_mass / mass)
    return found


@numba.njit(cache=True)
def _positive_correlation(cosine, order, one, cosine_rank, niche_rank, target_niche):
    """Spearman over the targets in ``order`` only, the positive ones: the highest ranks of the row, so the ranks of the
    similarities are those of the whole row less a constant, and only the cosines are ranked again."""
    cosine_squares = midranks(cosine, order, one, COSINE_TIE, cosine_rank)
    shift = (len(target_niche) - len(order)) / 2.0
    squares, product = 0.0, 0.0
    for j in order:
        rank = niche_rank[target_niche[j]] - shift
        squares += rank * rank
        product += rank * cosine_rank[j]
    if squares == 0 or cosine_squares == 0:
        return np.nan
    return min(1.0, max(-1.0, product / np.sqrt(squares * cosine_squares)))
