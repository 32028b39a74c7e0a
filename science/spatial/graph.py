"""The neighbour graph of a section, by squidpy.

Only who neighbours whom is decided here; what is computed on the graph (niches, smoothing) lives with its method.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse

from science.spatial.section_checks import check_distinct, check_grid, check_spot_number, section_error

GraphKind = Literal["hex", "knn", "delaunay"]
GRAPH_KINDS: tuple[GraphKind, ...] = ("hex", "knn", "delaunay")


def neighbour_graph(
    array_row: np.ndarray,
    array_col: np.ndarray,
    pixel: np.ndarray,
    kind: GraphKind = "hex",
    n_neighbours: int = 6,
    *,
    source: Path | str = "spot positions",
) -> sparse.csr_matrix:
    """Connect neighbouring spots.

    Parameters
    ----------
    array_row, array_col : int ``[n_spots]``, position on the grid; used by 'hex'.
    pixel : float ``[n_spots, 2]``; used by 'knn' and 'delaunay'.
    kind : 'hex', the six places (0, +-2) and (+-1, +-1) of the Visium grid; 'knn', the `n_neighbours` nearest spots,
        made symmetric by union; 'delaunay', the edges of the triangulation (long ones too).
    source : named in errors.

    Returns
    -------
    CSR bool ``[n_spots, n_spots]``, symmetric, empty diagonal, sorted indices. Spots without neighbours are allowed.

    Raises
    ------
    SectionError : fewer than two spots, no hex grid, too few or identical positions for the chosen kind.
    """
    check_spot_number(len(array_row), source)
    if kind == "hex":
        check_grid(array_row, array_col, np.arange(len(array_row)), source)
        # In units of half the spacing of spots: rows lie sqrt(3) apart, so all six neighbours are at distance 2 and
        # the next spot is at 3.46. A fixed radius instead of squidpy's grid mode, because that one guesses the spacing
        # from the median distance and joins spots two places apart where the tissue is sparse.
        coordinates = np.stack([array_row * np.sqrt(3.0), array_col.astype(float)], axis=1)
    elif kind in GRAPH_KINDS:
        coordinates = np.asarray(pixel, float)
        check_distinct(coordinates, source)
    else:
        raise ValueError(f"found graph {kind!r}; expected one of {', '.join(GRAPH_KINDS)}.")
    connected = _squidpy_graph(coordinates, kind, n_neighbours, source)
    adjacency = sparse.csr_matrix((connected + connected.T) != 0)
    adjacency.setdiag(False)
    adjacency.eliminate_zeros()
    adjacency.sort_indices()
    return adjacency


def _squidpy_graph(
    coordinates: np.ndarray, kind: GraphKind, n_neighbours: int, source: Path | str
) -> sparse.csr_matrix:
    from scipy.spatial import QhullError

    with warnings.catch_warnings():
        # squidpy 1.8.2 warns at import about its own docstrings.
        warnings.filterwarnings("ignore", message=".*is not a valid key", category=SyntaxWarning)
        from squidpy.gr.neighbors import DelaunayBuilder, KNNBuilder, RadiusBuilder

    if kind == "hex":
        return RadiusBuilder(radius=2.5).build(coordinates)[0]
    if kind == "knn":
        if not 0 < n_neighbours < len(coordinates):
            raise section_error(
                source,
                f"{len(coordinates)} spots and n_neighbours={n_neighbours}",
                "more spots than neighbours, and at least one neighbour",
                "choose another n_neighbours",
            )
        return KNNBuilder(n_neighs=n_neighbours).build(coordinates)[0]
    try:
        return DelaunayBuilder().build(coordinates)[0]
    except (QhullError, ValueError) as error:
        raise section_error(
            source,
            f"{len(coordinates)} spots that cannot be triangulated ({str(error).splitlines()[0]})",
            "at least three spots that are not on one line",
            "choose graph='knn'",
        ) from error


def grid_from_pixels(pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, int32 ``[n_spots]``, of spots on a platform without a grid.

    Pixel positions, from the corner of the tissue, in units of the median distance between nearest neighbours, rounded;
    two spots may share a place.
    """
    from scipy.spatial import cKDTree

    nearest = cKDTree(pixel).query(pixel, k=2)[0][:, 1]
    column, row = np.round((pixel - pixel.min(axis=0)) / np.median(nearest)).astype(np.int32).T
    return row, column
