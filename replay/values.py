"""Two values: the same bits, or how far apart."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np


def same_bits(a: Any, b: Any) -> bool:
    """Whether two values of one table column are the same: -0.0 is not 0.0."""
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and a == b


def within(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values differ by at most ``tolerance`` in every number."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(within(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0.0, abs_tol=tolerance)
    return same_bits(a, b)


def differing_elements(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Flat indices at which two arrays of one shape and type differ in any bit."""
    flat_a, flat_b = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    if flat_a.dtype.hasobject:  # texts of HDF5: their bytes are addresses
        return np.flatnonzero([x != y for x, y in zip(flat_a, flat_b, strict=True)])
    if flat_a.tobytes() == flat_b.tobytes():
        return np.empty(0, dtype=np.int64)
    as_bytes = [each.view(np.uint8).reshape(each.size, each.dtype.itemsize) for each in (flat_a, flat_b)]
    return np.flatnonzero((as_bytes[0] != as_bytes[1]).any(axis=1))


def largest_deviation(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference of two arrays of numbers; infinite where only one is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = np.abs(a.astype(np.float64) - b.astype(np.float64))
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    return float(np.where(np.isfinite(deviation), deviation, np.inf)[unequal].max(initial=0.0))
