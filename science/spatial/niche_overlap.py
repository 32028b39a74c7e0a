"""Compiled code that compares niches by their label histograms: all pairs, and the k best.

An overlap min(c_a / n_a, c_b / n_b) is counted in units of 1 / (n_a n_b), so that sums are exact integers and each
similarity is divided once. Called by rm_ideal.py and top_k.py. All functions stand in this one file on purpose:
numba's cache notices a change in the file of the cached function only.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from science.spatial.wl_labels import Histograms

# A list that holds more than one niche in so many is also stored in full: the CPU then compares eight niches at once,
# which measured twice as fast on niches with many labels. Only speed depends on it.
FULL_LIST = 8

# In so many steps of I_0 groups of niches are put in order before the best are sought. Only speed depends on it.
N_STEPS = 1024


class InvertedIndex(NamedTuple):
    """For each label, the niches that hold it.

    Where all niches refine a label into one and the same label, both have the same list: it is stored once.

    Attributes
    ----------
    list_of : int32 ``[n_labels]``, the label under which the list of a label is stored.
    start : int64 ``[n_labels + 1]``; the list of label l is ``start[l]`` up to ``start[l + 1]``.
    niche : uint32, carriers : int32; a niche, and how many of its spots carry the label.
    column_of : int32 ``[n_labels]``, for a label that many niches hold: where its list stands in full, else -1.
    column : float32 ``[n_columns, n_niches]``, counts of those labels in all niches, also where they are 0.
    """

    list_of: np.ndarray
    start: np.ndarray
    niche: np.ndarray
    carriers: np.ndarray
    column_of: np.ndarray
    column: np.ndarray


@numba.njit(cache=True)
def invert(histograms, n_levels, parent):
    """Build the `InvertedIndex` of a section; ``parent`` is the label that each label refines, or -1."""
    list_of = _shared_lists(parent)
    start = np.zeros(list_of.size + 1, np.int64)
    for label in histograms.label:
        if list_of[label] == label:
            start[label + 1] += 1
    start = np.cumsum(start)
    end = start[:-1].copy()
    niche, carriers = np.empty(start[-1], np.uint32), np.empty(start[-1], np.int32)
    n_niches = histograms.size.size
    for i in range(n_niches):
        for e in range(histograms.start[i * n_levels], histograms.start[(i + 1) * n_levels]):
            label = histograms.label[e]
            if list_of[label] == label:
                niche[end[label]], carriers[end[label]] = i, histograms.carriers[e]
                end[label] += 1
    long_lists = np.flatnonzero(start[1:] - start[:-1] > n_niches // FULL_LIST)
    column_of = np.full(list_of.size, -1, np.int32)
    column = np.zeros((long_lists.size, n_niches), np.float32)
    for c in range(long_lists.size):
        column_of[long_lists[c]] = c
        for p in range(start[long_lists[c]], start[long_lists[c] + 1]):
            column[c, niche[p]] = carriers[p]
    return InvertedIndex(list_of, start, niche, carriers, column_of, column)


@numba.njit(cache=True)
def _shared_lists(parent):
    """For each label, the label that stands for its list: itself, or down the tree while it has one child."""
    children, child = np.zeros(parent.size, np.int32), np.empty(parent.size, np.int32)
    list_of = np.arange(parent.size).astype(np.int32)
    for i in range(parent.size):
        if parent[i] >= 0:
            children[parent[i]] += 1
            child[parent[i]] = i
    for i in range(parent.size - 1, -1, -1):  # a label is numbered after its parent
        if children[i] == 1:
            list_of[i] = list_of[child[i]]
    return list_of


def overlap_dtype(n_levels: int, source: Histograms, target: Histograms) -> type[np.floating]:
    """Return the float type in which all overlaps of such niches are exact integers: float32 (faster) below 2^24."""
    largest = n_levels * int(source.size.max(initial=1)) * int(target.size.max(initial=1))
    return np.float32 if largest < 2**24 else np.float64


@numba.njit(cache=True, error_model="numpy")
def compare(source, index, target_size, n_levels, similarity):
    """Write the similarity of all niches of ``source`` (Histograms) with all target niches."""
    total, scratch = np.empty_like(target_size), np.empty((4, index.list_of.size), np.int32)
    for a in range(source.size.size):
        _sum_overlaps(source, a, 0, index, target_size, n_levels, scratch, total)
        scale = np.float64(n_levels * source.size[a])
        for b in range(total.size):
            similarity[a, b] = np.float64(total[b]) / (scale * np.float64(target_size[b]))


@numba.njit(cache=True, error_model="numpy")
def _sum_overlaps(source, a, first_level, index, target_size, n_levels, scratch, total):
    """Set ``total[b]``, for every target niche b, to the overlap of niche a at the levels ``first_level`` to H.

    In units of 1 / (n_a n_b), an integer. ``total`` and ``target_size`` are floats that hold it exactly
    (`overlap_dtype`); ``scratch`` is int32 ``[4, n_labels]`` of any content.
    """
    number = total.dtype.type
    total[:] = 0
    for i in range(_merge_levels(source, a, first_level, index.list_of, n_levels, scratch)):
        which, carriers, levels = scratch[0, i], scratch[1, i], scratch[2, i]
        held, size = number(levels * carriers), number(levels * source.size[a])
        column = index.column_of[which]
        if column >= 0:
            for b in range(total.size):
                mine, theirs = held * target_size[b], size * number(index.column[column, b])
                total[b] += mine if mine < theirs else theirs
        else:
            for p in range(index.start[which], index.start[which + 1]):
                b = index.niche[p]
                mine, theirs = held * target_size[b], size * number(index.carriers[p])
                total[b] += mine if mine < theirs else theirs


@numba.njit(cache=True)
def _merge_levels(source, a, first_level, list_of, n_levels, scratch):
    """Write the histogram of a niche as rows (list, carriers, levels at which that holds); return their number.

    Labels that the index does not know match nothing and drop out. Row 3 of ``scratch`` notes where a list came last.
    """
    n = 0
    for e in range(source.start[a * n_levels + first_level], source.start[(a + 1) * n_levels]):
        if source.label[e] >= list_of.size:
            continue
        which, carriers = list_of[source.label[e]], source.carriers[e]
        same = scratch[3, which]
        if 0 <= same < n and scratch[0, same] == which and scratch[1, same] == carriers:
            scratch[2, same] += 1
        else:
            scratch[0, n], scratch[1, n], scratch[2, n], scratch[3, which] = which, carriers, 1, n
            n += 1
    return n


@numba.njit(cache=True, error_model="numpy")
def best_spots(asked, target, index, target_size, compositions, group_start, group, spot_start, spots, n_levels, k):
    """Return the k best target spots of each asked niche, and their similarity.

    Parameters
    ----------
    asked, target : Histograms; index : that of ``target``.
    target_size : sizes of the target niches as `overlap_dtype`.
    compositions : Histograms of the target's distinct compositions, level 0 only.
    group_start, group : target niches of each composition; spot_start, spots : spots of each target niche.
    """
    best_spot, best = np.empty((asked.size.size, k), np.int64), np.empty((asked.size.size, k), np.float64)
    refined, scratch = np.empty_like(target_size), np.empty((4, index.list_of.size), np.int32)
    held = np.zeros(index.list_of.size, np.int64)
    for a in range(asked.size.size):
        size = np.int64(asked.size[a])
        _sum_overlaps(asked, a, 1, index, target_size, n_levels, scratch, refined)
        shared, bound = _composition_overlaps(asked, a, compositions, n_levels, held)
        n_found = 0
        for g in _falling(bound):
            if n_found == k and bound[g] < best[a, k - 1]:
                continue
            for b in group[group_start[g] : group_start[g + 1]]:
                similarity = (shared[g] + refined[b]) / (n_levels * size * np.int64(target.size[b]))
                if n_found < k or similarity >= best[a, k - 1]:
                    candidates = spots[spot_start[b] : spot_start[b + 1]]
                    n_found = _offer(similarity, candidates, best_spot[a], best[a], n_found)
    return best_spot, best


@numba.njit(cache=True)
def _composition_overlaps(asked, a, compositions, n_levels, held):
    """I_0 of a niche with each composition of the target: in units of one over both sizes, and as a share."""
    first, last = asked.start[a * n_levels], asked.start[a * n_levels + 1]
    size = np.int64(asked.size[a])
    for e in range(first, last):
        if asked.label[e] < held.size:  # a layer that the target has
            held[asked.label[e]] = asked.carriers[e]
    n_compositions = compositions.size.size
    shared, bound = np.zeros(n_compositions, np.int64), np.empty(n_compositions, np.float64)
    for c in range(n_compositions):
        for e in range(compositions.start[c], compositions.start[c + 1]):
            shared[c] += min(held[compositions.label[e]] * compositions.size[c], compositions.carriers[e] * size)
        bound[c] = shared[c] / (size * compositions.size[c])
    for e in range(first, last):
        if asked.label[e] < held.size:
            held[asked.label[e]] = 0
    return shared, bound


@numba.njit(cache=True)
def _falling(bound):
    """Indices from the highest bound to the lowest, in steps: a counting sort."""
    end = np.zeros(N_STEPS + 2, np.int64)
    for value in bound:
        end[N_STEPS + 1 - int(value * N_STEPS)] += 1
    end = np.cumsum(end)
    order = np.empty(bound.size, np.int64)
    for g in range(bound.size):
        step = N_STEPS - int(bound[g] * N_STEPS)
        order[end[step]] = g
        end[step] += 1
    return order


@numba.njit(cache=True)
def _offer(similarity, spots, best_spot, best, n_found):
    """Insert the spots of a niche into the list of the best; return how many it now holds."""
    for spot in spots:
        place = n_found
        if n_found == best.size:
            place -= 1
            if similarity < best[place] or (similarity == best[place] and spot > best_spot[place]):
                break  # the spots ascend: no later one is better
        else:
            n_found += 1
        while place > 0 and (
            similarity > best[place - 1] or (similarity == best[place - 1] and spot < best_spot[place - 1])
        ):
            best[place], best_spot[place] = best[place - 1], best_spot[place - 1]
            place -= 1
        best[place], best_spot[place] = similarity, spot
    return n_found
