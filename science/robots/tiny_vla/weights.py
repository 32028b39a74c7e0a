"""Holds the weights of a checkpoint against its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from science.robots.tiny_vla.checkpoint import CheckpointError
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.model import shapes


def require_shapes(path: Path, weights: Mapping[str, np.ndarray], config: TinyVlaConfig, action_dim: int) -> None:
    """Hold that a checkpoint has the arrays that its settings ask for.

    Raises
    ------
    CheckpointError
        Naming those that are missing, too many, or of another shape.
    """
    wanted = shapes(config, action_dim)
    found = {name: each.shape for name, each in weights.items()}
    differ = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if differ:
        told = "; ".join(f"{name} {found.get(name)} (expected {wanted.get(name)})" for name in differ[:5])
        raise CheckpointError(
            f"found {len(differ)} arrays of {path} that its settings do not ask for: {told}; it is of another shape or "
            "damaged: copy it again, or use another step"
        )
