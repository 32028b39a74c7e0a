"""What a reader of checkpoints is: names of leaves, and one leaf at a time; and the one error that readers raise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class WeightsError(ValueError):
    """A checkpoint that cannot be read: what was found, what was expected, what to do."""


class Weights(Protocol):
    """An open checkpoint. Its leaves are read one at a time: memory stays near that of the biggest one."""

    path: Path
    format: str

    def names(self) -> Sequence[str]:
        """Names of the leaves, in the order in which they are read best."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One leaf, in its own shape and type (bfloat16 and float8 as in ml_dtypes).

        Raises
        ------
        KeyError
            For a name that is not in `names`.
        WeightsError
            When its bytes are damaged or not there.
        """
        ...


def leaves(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Each leaf with its name."""
    for name in weights.names():
        yield name, weights.read(name)


def without_shared_parts(paths: Sequence[tuple[str, ...]], prefix: str, suffix: str = "") -> list[tuple[str, ...]]:
    """Leaf paths without a first and last part that ALL of them have: they name the container, not the leaf.

    openpi's own checkpoints have `params/.../value`, what it trains from has `params/...`: the leaves are the same.
    """
    if paths and all(len(path) > 1 and path[0] == prefix for path in paths):
        paths = [path[1:] for path in paths]
    if suffix and paths and all(len(path) > 1 and path[-1] == suffix for path in paths):
        paths = [path[:-1] for path in paths]
    return list(paths)


def by_name(names: Sequence[str], values: Sequence[Any], where: Path) -> Mapping[str, Any]:
    """Leaves by name, in order.

    Raises
    ------
    WeightsError
        When there are none, or two of one name.
    """
    if not names:
        raise WeightsError(
            f"found no leaf in {where}, expected arrays of weights; give the checkpoint itself, with its parameters"
        )
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise WeightsError(
            f"found leaves {twice[:5]} twice in {where}, expected each name once; a leaf must be told from others by "
            "its name: rename it"
        )
    return dict(zip(names, values, strict=True))
