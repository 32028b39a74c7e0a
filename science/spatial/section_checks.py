"""What makes the arrays of a section usable, and the error that says why they are not.

Each rule takes the arrays and the FILE that they came from, so that the message names it. The readers
(`space_ranger.py`, `annotated.py`) and `load.py` apply the rules file by file; `check_section` applies them to a
finished section. Rules about formats (missing columns, truncated files) stand in the readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from science.spatial.section import Section

EXAMPLES_SHOWN = 5


class SectionError(ValueError):
    """A section that cannot be used. The message says what was found, what was expected and what to do."""


def section_error(file: Path | str, found: str, expected: str, to_do: str) -> SectionError:
    """Build the error for `file`; all three parts are phrases without a full stop."""
    return SectionError(f"{file}: found {found}; expected {expected}. {to_do[0].upper()}{to_do[1:]}.")


def some(names: Iterable[object]) -> str:
    """Name up to five of `names`, and say how many more there are."""
    listed = [str(name) for name in names]
    more = len(listed) - EXAMPLES_SHOWN
    return ", ".join(listed[:EXAMPLES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def number(n: int, noun: str) -> str:
    """'1 spot', '2 spots'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def repeated(names: np.ndarray) -> np.ndarray:
    """Values that occur more than once in `names`, sorted."""
    values, n = np.unique(names, return_counts=True)
    return values[n > 1]


def check_barcodes(barcodes: np.ndarray, file: Path | str) -> None:
    """Refuse barcodes that are empty or occur twice."""
    if (twice := repeated(barcodes)).size:
        found = f"{number(twice.size, 'repeated barcode')} ({some(twice)})"
        raise section_error(
            file, found, "one row for each barcode", "if this file joins several sections, write one file for each"
        )
    if (barcodes == "").any():
        found = number(int((barcodes == "").sum()), "empty barcode")
        raise section_error(file, found, "a barcode for each spot", "export the file again")


def check_genes(genes: np.ndarray, file: Path | str) -> None:
    """Refuse a section without genes, or with a gene identifier that is empty or occurs twice."""
    if genes.size == 0:
        raise section_error(
            file,
            "no genes",
            "at least one feature of type 'Gene Expression'",
            "check that the file is not an antibody-only or an over-filtered matrix",
        )
    if (twice := repeated(genes)).size:
        raise section_error(
            file,
            f"{number(twice.size, 'repeated gene identifier')} ({some(twice)})",
            "each gene once",
            "sum or drop the repeated rows (probe-level matrices: use the gene-level one)",
        )
    if (genes == "").any():
        raise section_error(
            file, number(int((genes == "").sum()), "empty gene identifier"), "a name for each gene", "name them"
        )


def integer_counts(matrix: object, file: Path | str, if_not_counts: str = "") -> sparse.csr_matrix:
    """Turn a matrix ``[n_spots, n_genes]`` into canonical int32 CSR, or refuse it.

    Canonical: indices sorted, no entry twice, no stored zeros; so equal counts have equal bytes.

    Parameters
    ----------
    matrix : dense or sparse, any number type.
    file : named in the error.
    if_not_counts : what to do where the values are not counts, in addition to the general advice.

    Raises
    ------
    SectionError : broken indices, NaN or infinity, negative, fractional, or above the int32 range.
    """
    raw_counts = "give the raw UMI counts" + (f" ({if_not_counts})" if if_not_counts else "")
    try:
        counts = sparse.csr_matrix(matrix)
        counts.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise section_error(
            file, f"a broken count matrix ({error})", "spots x genes", "export the file again"
        ) from error
    values = counts.data
    if values.dtype.kind not in "iuf":
        raise section_error(file, f"counts of type {values.dtype}", "numbers", raw_counts)
    if values.size:
        checks = (
            (~np.isfinite(values), "NaN or infinite count", "finite counts"),
            (values < 0, "negative count", "counts of 0 or more"),
            (values != np.floor(values), "fractional count", "whole numbers"),
            (values > np.iinfo(np.int32).max, "too large count", "at most 2147483647"),
        )
        for bad, what, expected in checks:
            if bad.any():
                at = int(np.argmax(bad))
                row = int(np.searchsorted(counts.indptr, at, side="right")) - 1
                first = f"(first: {values[at]} in row {row}, column {counts.indices[at]})"
                found = f"{number(int(bad.sum()), what)} {first}"
                raise section_error(file, found, expected, raw_counts)
    canonical = sparse.csr_matrix((values.astype(np.int32), counts.indices, counts.indptr), shape=counts.shape)
    canonical.sum_duplicates()
    canonical.eliminate_zeros()
    return canonical


def check_depth(counts: sparse.csr_matrix, sum_umi: np.ndarray, barcodes: np.ndarray, file: Path | str) -> None:
    """Refuse spots without UMIs, and totals smaller than the counts that they are the totals of."""
    if not np.isfinite(sum_umi).all():
        found = f"{number(int((~np.isfinite(sum_umi)).sum()), 'spot')} whose sum_umi is NaN or infinite"
        raise section_error(
            file, found, "the UMI count of each spot", "fill in obs['sum_umi'], or leave the column out"
        )
    here = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
    if (less := sum_umi < here).any():
        at = int(np.argmax(less))
        found = (
            f"{number(int(less.sum()), 'spot')} whose sum_umi is below the sum of their counts (first: {barcodes[at]}, "
            f"sum_umi {sum_umi[at]:g}, counts {here[at]})"
        )
        raise section_error(
            file, found, "sum_umi over ALL genes", "check that sum_umi and the counts are of the same section"
        )
    if (none := sum_umi <= 0).any():
        found = f"{number(int(none.sum()), 'spot')} without a single UMI ({some(barcodes[none])})"
        raise section_error(
            file,
            found,
            "at least one UMI a spot, since normalisation divides by it",
            "set in_tissue to 0 for these spots (tissue positions, or obs['in_tissue']); they are then left out",
        )


def check_pixels(pixel: np.ndarray, barcodes: np.ndarray, file: Path | str) -> None:
    """Refuse pixel positions of the wrong shape, or that are not finite."""
    if pixel.ndim != 2 or pixel.shape != (len(barcodes), 2):
        raise section_error(
            file, f"pixel positions of shape {pixel.shape}", f"({len(barcodes)}, 2): x and y", "write one row a spot"
        )
    if (bad := ~np.isfinite(pixel).all(axis=1)).any():
        found = f"{number(int(bad.sum()), 'spot')} whose pixel position is NaN or infinite ({some(barcodes[bad])})"
        raise section_error(file, found, "a position for each spot", "drop these spots or give their positions")


def check_grid(array_row: np.ndarray, array_col: np.ndarray, barcodes: np.ndarray, file: Path | str) -> None:
    """Refuse array positions that are no Visium hex grid: two spots in one place, or rows that are not staggered."""
    places, index, n = np.unique(
        np.stack([array_row, array_col], axis=1), axis=0, return_index=True, return_counts=True
    )
    if (twice := n > 1).any():
        row, col = places[twice][0]
        here = barcodes[(array_row == row) & (array_col == col)]
        found = f"several spots at {number(int(twice.sum()), 'grid position')} (row {row}, column {col}: {some(here)})"
        raise section_error(file, found, "one spot a grid position", "check that the file holds ONE section")
    parity = (array_row + array_col) % 2
    if len(index) and parity.min() != parity.max():
        odd = int(min(parity.sum(), len(parity) - parity.sum()))
        raise section_error(
            file,
            f"{odd} of {len(parity)} spots between the positions of a hex grid",
            "array_row + array_col even for all spots (Visium), or odd for all",
            "for a platform without a hex grid choose graph='knn' or graph='delaunay'",
        )


def check_distinct(pixel: np.ndarray, file: Path | str) -> None:
    """Refuse two spots at one pixel position."""
    n_places = len(np.unique(pixel, axis=0))
    if n_places != len(pixel):
        found = f"{len(pixel)} spots in {n_places} pixel positions"
        raise section_error(file, found, "one spot a position", "check that the file holds ONE section")


def check_graph(adjacency: sparse.csr_matrix, file: Path | str) -> None:
    """Refuse a graph that is broken, directed, or without a single pair of neighbours."""
    try:
        adjacency.check_format(full_check=True)
    except ValueError as error:
        raise section_error(file, f"a broken graph ({error})", "spots x spots", "build the graph again") from error
    if (adjacency != adjacency.T).nnz or adjacency.diagonal().any():
        raise section_error(
            file, "a graph that is directed, or joins a spot to itself", "neighbours of each other", "build it again"
        )
    if adjacency.nnz == 0:
        raise section_error(
            file,
            f"{adjacency.shape[0]} spots of which no two are neighbours",
            "a tissue: neighbours at (0, +-2) and (+-1, +-1) on the grid",
            "check array_row and array_col, and in_tissue",
        )


def check_spot_number(n_spots: int, file: Path | str) -> None:
    """Refuse fewer than two spots."""
    if n_spots < 2:
        raise section_error(
            file, f"{number(n_spots, 'spot')} in tissue", "at least 2", "check that the file is complete"
        )


def check_labels(layer: np.ndarray, known_labels: Sequence[str], file: Path | str) -> None:
    """Refuse labels that are not among `known_labels`; the empty string, no label, is always allowed."""
    values, n = np.unique(layer, return_counts=True)
    unknown = [
        f"'{value}' ({number(int(n[i]), 'spot')})"
        for i, value in enumerate(values)
        if value and value not in known_labels
    ]
    if unknown:
        raise section_error(
            file,
            f"{number(len(unknown), 'unknown label')}: {some(unknown)}",
            f"one of {', '.join(known_labels)}",
            "correct the labels, or name the new ones with --known-labels (known_labels=)",
        )


def check_section(section: Section, file: Path | str) -> None:
    """Apply every rule on arrays to a finished section; `file` is named in the error."""
    if not section.key or "/" in section.key:
        raise section_error(file, f"the key {section.key!r}", "a name without '/'", "name the section otherwise")
    n_spots = len(section.barcodes)
    check_spot_number(n_spots, file)
    check_barcodes(section.barcodes, file)
    check_genes(section.genes, file)
    lengths = {name: len(getattr(section, name)) for name in ("array_row", "array_col", "pixel", "layer", "sum_umi")}
    wrong = [f"{name} {length}" for name, length in lengths.items() if length != n_spots]
    shapes = {"counts": (n_spots, len(section.genes)), "adjacency": (n_spots, n_spots)}
    wrong += [
        f"{name} {getattr(section, name).shape}"
        for name, shape in shapes.items()
        if getattr(section, name).shape != shape
    ]
    if wrong:
        raise section_error(
            file, f"arrays that do not fit {n_spots} barcodes: {some(wrong)}", "one row a spot", "write the file again"
        )
    integer_counts(section.counts, file)
    check_depth(section.counts, section.sum_umi, section.barcodes, file)
    check_pixels(section.pixel, section.barcodes, file)
    check_graph(section.adjacency, file)
