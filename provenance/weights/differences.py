"""How two checkpoints differ, leaf by leaf."""

from __future__ import annotations

import numpy as np

from provenance.weights.fingerprint import Fingerprint, as_float32, is_floating

MOST_ELEMENTS = 20_000_000
"""Above this, the difference of two leaves is not computed: it would take them into memory twice."""


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, list[str]]:
    """Leaf names by what they are: equal, differ, other_shape, only_a, only_b."""
    both = [name for name in a if name in b]
    shaped = [name for name in both if a[name].shape == b[name].shape]
    return {
        "equal": [name for name in shaped if a[name] == b[name]],
        "differ": [name for name in shaped if a[name] != b[name]],
        "other_shape": [name for name in both if a[name].shape != b[name].shape],
        "only_a": [name for name in a if name not in b],
        "only_b": [name for name in b if name not in a],
    }


def greatest_difference(a: np.ndarray, b: np.ndarray) -> float | None:
    """max |a - b| in float32, NaN where one is; None for leaves of more than `MOST_ELEMENTS`, and of no numbers."""
    if (
        a.size > MOST_ELEMENTS
        or a.size == 0
        or not all(is_floating(each.dtype) or each.dtype.kind in "iu" for each in (a, b))
    ):
        return None
    return float(np.abs(as_float32(a) - as_float32(b)).max())
