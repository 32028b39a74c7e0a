"""Confidence intervals that respect spatial correlation: the block bootstrap over tiles of the section.

Neighbouring spots share most of their niche, so they are not independent and an interval over single spots is far too
narrow. Whole tiles of spots are resampled instead (blocks for dependent data: Kuensch 1989, Ann. Statist. 17:1217; for
spatial data Lahiri 2003, Resampling Methods for Dependent Data, ch. 12). An interval says how far a value would move
with other spots of the SAME section; it does not cover another section, donor or seed. Metrics live in `metrics.py`.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def spatial_blocks(array_row: np.ndarray, array_col: np.ndarray, size: int = 8) -> np.ndarray:
    """Tile the hexagonal array in blocks of about ``size`` x ``size`` spots.

    Parameters
    ----------
    array_row, array_col : int ``[n_spots]``, Visium array position; columns of one row are two apart.
    size : spots along the side of a tile; 8 spots are 0.8 mm on Visium, more than the diameter of a 3-hop niche (7).

    Returns
    -------
    int32 ``[n_spots]``, block of each spot: 0, 1, 2, ... without gaps. The tiles are fixed on the array, so a spot is
    in the same tile whichever other spots are present.

    Raises
    ------
    ValueError : positions of different lengths, or a ``size`` below 1.
    """
    row, col = np.asarray(array_row), np.asarray(array_col)
    if row.ndim != 1 or row.shape != col.shape:
        raise ValueError(f"array_row has shape {row.shape} and array_col {col.shape}; expected one position per spot")
    if size < 1:
        raise ValueError(f"block size is {size}; expected at least 1 spot (8 is usual)")
    tile = np.stack([row // size, col // (2 * size)], axis=1)
    return np.unique(tile, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def block_weights(n_blocks: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """How often each draw takes each block: float64 ``[n_bootstrap, n_blocks]``, whose rows sum to ``n_blocks``."""
    if n_bootstrap < 0:
        raise ValueError(f"n_bootstrap is {n_bootstrap}; expected 0 (no interval) or more (1000 is usual)")
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), size=n_bootstrap).astype(np.float64)


def percentile_interval(replicates: np.ndarray, block: np.ndarray) -> tuple[float, float] | None:
    """95 % percentile interval of the replicates.

    Parameters
    ----------
    replicates : float64 ``[n_bootstrap]``; NaN where the draw left the value undefined: such replicates are left out.
    block : int ``[n]``, blocks of the spots behind the value.

    Returns
    -------
    (low, high), or None with fewer than 2 blocks (one block says nothing about its own variation) or 2 replicates.
    """
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < 2 or len(np.unique(block)) < 2:
        return None
    low, high = np.quantile(defined, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(low), float(high)


def mean_interval(values: np.ndarray, block: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """Block-bootstrap interval of the mean of ``values``: a ratio of weighted block sums, exact for every draw.

    Parameters
    ----------
    values : float64 ``[n]``, one value per query spot, of one layer or of all.
    block : int ``[n]``, block of each query spot: a column of ``weights``.
    weights : float64 ``[n_bootstrap, n_blocks]`` of the whole section, from `block_weights`. One draw serves all layers
        and metrics; a draw without any block of this layer has no value.

    Returns
    -------
    As `percentile_interval`.
    """
    totals = weights @ np.bincount(block, weights=values, minlength=weights.shape[1])
    counts = weights @ np.bincount(block, minlength=weights.shape[1])
    return percentile_interval(np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0), block)
