"""Compiled code that cuts niches out of a graph and gives their spots Weisfeiler-Lehman (WL) labels, exactly.

Labels and niches are numbered by an open-addressing table of integer sequences. The hash only chooses where to look:
on an equal hash the whole key is compared, so two sequences share a number exactly if they are equal. numba neither
caches classes nor has dictionaries with keys of any length, hence the table of plain arrays.
All functions stand in this one file on purpose: numba's cache notices a change in the file of the cached function
only, so a function called from another file could run in its old form. Called by niches.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np


class SequenceTable(NamedTuple):
    """Keys and hash slots. Id i has the key ``key[start[i]:start[i + 1]]``.

    Attributes
    ----------
    slot : int32 ``[n_slots]``, a power of two; an id, or -1 where free.
    hashed : int64 ``[capacity]``, the hash of each key.
    start : int64 ``[capacity + 1]``
    key : int32 ``[key_capacity]``, all keys, one after the other.
    """

    slot: np.ndarray
    hashed: np.ndarray
    start: np.ndarray
    key: np.ndarray


class Histograms(NamedTuple):
    """Histograms of niches at the levels 0 to H; labels ascend within a level.

    Attributes
    ----------
    size : int32 ``[n_niches]``, spots in each niche.
    start : int64 ``[n_niches * (H + 1) + 1]``; level t of niche i has the entries ``start[i * (H + 1) + t]`` up to
        ``start[i * (H + 1) + t + 1]``.
    label, carriers : int32 ``[n_entries]``, a label and how many spots of the niche carry it.
    """

    size: np.ndarray
    start: np.ndarray
    label: np.ndarray
    carriers: np.ndarray


@numba.njit(cache=True)
def empty_table():
    """Return a table without entries."""
    return SequenceTable(np.full(1, -1, np.int32), np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32))


@numba.njit(cache=True)
def hash_sequence(sequence, length):
    """Hash the first ``length`` integers of ``sequence`` to an int64 >= 0 (multiply and fold, after FNV and murmur)."""
    h = np.uint64(length) + np.uint64(0x9E3779B97F4A7C15)
    for i in range(length):
        h ^= np.uint64(np.uint32(sequence[i]))
        h *= np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> np.uint64(32)
    return np.int64(h & np.uint64(0x7FFFFFFFFFFFFFFF))


@numba.njit(cache=True)
def find(table, sequence, length, h):
    """Return the id of the sequence, or ``-1 - slot`` with the free slot where it belongs."""
    mask = table.slot.size - 1
    s = h & mask
    while True:
        i = table.slot[s]
        if i < 0:
            return -1 - s
        first = table.start[i]
        if table.hashed[i] == h and table.start[i + 1] - first == length:
            same = True
            for j in range(length):
                if table.key[first + j] != sequence[j]:
                    same = False
                    break
            if same:
                return i
        s = (s + 1) & mask


@numba.njit(cache=True)
def insert(table, n_entries, sequence, length, h, slot):
    """Give the sequence the id ``n_entries`` at a free slot. `with_room` must have made room for it."""
    first = table.start[n_entries]
    for j in range(length):
        table.key[first + j] = sequence[j]
    table.start[n_entries + 1] = first + length
    table.hashed[n_entries] = h
    table.slot[slot] = n_entries


@numba.njit(cache=True)
def with_room(table, n_entries, new_entries, new_integers):
    """Return the table, enlarged if need be for so many more entries and key integers; half its slots stay free."""
    entries, integers = n_entries + new_entries, table.start[n_entries] + new_integers
    hashed, start, key, slot = table.hashed, table.start, table.key, table.slot
    if entries > hashed.size:
        hashed = grown(hashed, n_entries, entries)
        start = grown(start, n_entries + 1, entries + 1)
    if integers > key.size:
        key = grown(key, start[n_entries], integers)
    if 2 * entries >= slot.size:
        n_slots = 1
        while n_slots <= 4 * entries:
            n_slots *= 2
        slot = np.full(n_slots, -1, np.int32)
        for i in range(n_entries):
            s = hashed[i] & (n_slots - 1)
            while slot[s] >= 0:
                s = (s + 1) & (n_slots - 1)
            slot[s] = i
    return SequenceTable(slot, hashed, start, key)


@numba.njit(cache=True)
def number(table, n_entries, sequence, length):
    """Return the table and the id of the sequence in it; a new sequence gets the id ``n_entries``."""
    h = hash_sequence(sequence, length)
    found = find(table, sequence, length, h)
    if found < 0:
        table = with_room(table, n_entries, 1, length)
        insert(table, n_entries, sequence, length, h, -1 - find(table, sequence, length, h))
        found = n_entries
    return table, found


@numba.njit(cache=True)
def grown(array, used, needed):
    """Copy the used part of an array into one that holds at least ``needed`` items, and at least half as many again."""
    larger = np.empty(max(needed, used + used // 2), array.dtype)
    larger[:used] = array[:used]
    return larger


@numba.njit(cache=True)
def label_niches(indptr, indices, code, spots, hops, n_levels, known, n_known):
    """Label the niche of each spot and keep the distinct ones.

    ``known`` is the dictionary of another section, whose ``n_known`` labels are tried first; it is not changed.

    Returns
    -------
    niche of each spot, Histograms of the distinct niches, layer composition of each distinct niche (numbered in order
    of first appearance), table of the labels from ``n_known`` on, number of those.
    """
    niche, composition = np.empty(spots.size, np.int32), np.empty(spots.size, np.int32)
    seen, position, members = np.full(code.size, -1, np.int64), np.empty_like(code), np.empty_like(code)
    label = np.empty((n_levels, code.size), np.int32)
    nearby_start, nearby = np.zeros(code.size + 1, np.int64), np.empty_like(indices)
    own, distinct, compositions = empty_table(), empty_table(), empty_table()
    n_own, n_distinct, n_compositions = 0, 0, 0
    kept = Histograms(composition.copy(), np.zeros(spots.size * n_levels + 1, np.int64), nearby[:0], nearby[:0])
    for s in range(spots.size):
        n = _collect_members(spots[s], s, indptr, indices, hops, seen, position, members)
        n_edges = _restrict_edges(s, n, members, indptr, indices, seen, position, nearby_start, nearby)
        own = with_room(own, n_own, n * n_levels, n + (n_levels - 1) * (n + n_edges))
        n_own = _refine(n, members, code, nearby_start, nearby, label, known, n_known, own, n_own)
        for t in range(n_levels):
            label[t, :n].sort()
        # Labels are nested: the last level decides all others.
        distinct, niche[s] = number(distinct, n_distinct, label[n_levels - 1], n)
        if niche[s] == n_distinct:
            kept = _keep_histogram(kept, n_distinct, label, n)
            compositions, composition[n_distinct] = number(compositions, n_compositions, label[0], n)
            n_compositions = max(n_compositions, composition[n_distinct] + 1)
            n_distinct += 1
    n_entries = kept.start[n_distinct * n_levels]
    histograms = Histograms(
        kept.size[:n_distinct].copy(),
        kept.start[: n_distinct * n_levels + 1].copy(),
        kept.label[:n_entries].copy(),
        kept.carriers[:n_entries].copy(),
    )
    return niche, histograms, composition[:n_distinct].copy(), own, n_own


@numba.njit(cache=True)
def _collect_members(spot, stamp, indptr, indices, hops, seen, position, members):
    """List the spots within ``hops`` steps, nearest first; mark them in ``seen`` and note their place in the list."""
    members[0] = spot
    seen[spot], position[spot] = stamp, 0
    first, n = 0, 1
    for _ in range(hops):
        end = n
        for i in range(first, end):
            for e in range(indptr[members[i]], indptr[members[i] + 1]):
                other = indices[e]
                if seen[other] != stamp:
                    seen[other], position[other] = stamp, n
                    members[n] = other
                    n += 1
        if n == end:
            break
        first = end
    return n


@numba.njit(cache=True)
def _restrict_edges(stamp, n, members, indptr, indices, seen, position, nearby_start, nearby):
    """Write the adjacency lists of the induced subgraph, in places of the member list; return their length."""
    n_edges = 0
    for i in range(n):
        for e in range(indptr[members[i]], indptr[members[i] + 1]):
            if seen[indices[e]] == stamp:
                nearby[n_edges] = position[indices[e]]
                n_edges += 1
        nearby_start[i + 1] = n_edges
    return n_edges


@numba.njit(cache=True)
def _refine(n, members, code, nearby_start, nearby, label, known, n_known, own, n_own):
    """Label the niche at every level; return the number of labels in ``own`` afterwards."""
    key = np.empty(n + 1, np.int32)
    for t in range(label.shape[0]):
        for i in range(n):
            length = 1
            if t == 0:
                key[0] = -1 - code[members[i]]
            else:
                key[0] = label[t - 1, i]
                for e in range(nearby_start[i], nearby_start[i + 1]):
                    place = length
                    while place > 1 and key[place - 1] > label[t - 1, nearby[e]]:
                        key[place] = key[place - 1]
                        place -= 1
                    key[place] = label[t - 1, nearby[e]]
                    length += 1
            h = hash_sequence(key, length)
            found = find(known, key, length, h)
            if found < 0:
                found = find(own, key, length, h)
                if found < 0:
                    insert(own, n_own, key, length, h, -1 - found)
                    found = n_own
                    n_own += 1
                found += n_known
            label[t, i] = found
    return n_own


@numba.njit(cache=True)
def _keep_histogram(kept, i, label, n):
    """Append niche i, whose n spots have these sorted labels at each level; return the histograms, perhaps enlarged."""
    n_levels = label.shape[0]
    used = kept.start[i * n_levels]
    labels, carriers = kept.label, kept.carriers
    if used + n * n_levels > labels.size:
        labels, carriers = grown(labels, used, used + n * n_levels), grown(carriers, used, used + n * n_levels)
    for t in range(n_levels):
        for j in range(n):
            if j > 0 and label[t, j] == label[t, j - 1]:
                carriers[used - 1] += 1
            else:
                labels[used], carriers[used] = label[t, j], 1
                used += 1
        kept.start[i * n_levels + t + 1] = used
    kept.size[i] = n
    return Histograms(kept.size, kept.start, labels, carriers)
