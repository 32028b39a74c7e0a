"""Which episodes are used for what. An episode is its seed, so disjoint ranges are disjoint episodes.

A policy is trained on episodes of `DEMONSTRATION`, its checkpoint is chosen on `SELECTION`, and only `EVALUATION`
counts. Seeds are drawn by name here and nowhere else, so that none can cross over.
"""

from __future__ import annotations

EVALUATION = range(0, 1_000_000)
SELECTION = range(1_000_000, 2_000_000)
DEMONSTRATION = range(2_000_000, 3_000_000)


def take(purpose: range, n: int, offset: int = 0) -> list[int]:
    """``n`` seeds of a purpose, from its ``offset``-th on.

    Raises
    ------
    ValueError
        When the purpose has not so many.
    """
    if n < 0 or offset < 0 or offset + n > len(purpose):
        raise ValueError(f"found {n} seeds from number {offset}, expected 0 to {len(purpose)} in all")
    return list(purpose[offset : offset + n])
