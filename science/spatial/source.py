"""What a source file of a section holds, before labels are joined and neighbours found.

`space_ranger.py` and `annotated.py` read their format into `SourceSpots`; `load.py` makes a `Section` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from science.spatial.section_checks import check_barcodes, check_genes, number, section_error, some


@dataclass(frozen=True)
class SourceSpots:
    """Spots of one section as its files give them; arrays as in `Section`.

    `array_row` and `array_col` are None on platforms without a grid, `layer` is None where the format has no labels.
    `files` names the file behind each part, for errors: ``counts``, ``positions``, ``image`` and its
    ``scale``.
    """

    files: dict[str, Path]
    counts: sparse.csr_matrix
    genes: np.ndarray
    barcodes: np.ndarray
    array_row: np.ndarray | None
    array_col: np.ndarray | None
    pixel: np.ndarray
    sum_umi: np.ndarray
    sum_umi_from: str
    layer: np.ndarray | None
    image: np.ndarray | None
    image_scale: float | None
    simulated: bool

    def subset(self, keep: np.ndarray) -> SourceSpots:
        """The spots for which `keep`, bool ``[n_spots]``, is True."""
        of_spots = ("counts", "barcodes", "array_row", "array_col", "pixel", "sum_umi", "layer")
        kept = {name: getattr(self, name)[keep] for name in of_spots if getattr(self, name) is not None}
        return replace(self, **kept)


def gene_identifiers(names: pd.Index, gene_ids: Sequence[str] | None, file: Path) -> np.ndarray:
    """Identifier of each gene, str ``[n_genes]``, without duplicates.

    The stable identifier (Ensembl, the column ``gene_ids`` of scanpy) where there is one: about ten symbols of the
    human reference stand for two genes, and a suffix given by order ('X', 'X-1') would match different genes in two
    sections. Only where there is none, the symbols, repeated ones with the suffixes that scanpy gives.
    """
    from anndata.utils import make_index_unique

    if gene_ids is not None:
        genes = np.array([str(gene) for gene in gene_ids], dtype=str)
    else:
        genes = make_index_unique(pd.Index(names.astype(str))).to_numpy(dtype=str)
    check_genes(genes, file)
    return genes


def barcode_array(names: Sequence[str], file: Path) -> np.ndarray:
    """Barcodes as a str array ``[n_spots]``, refused if empty or repeated."""
    barcodes = np.array([str(name) for name in names], dtype=str)
    check_barcodes(barcodes, file)
    return barcodes


def whole_numbers(values: pd.Series, what: str, file: Path) -> np.ndarray:
    """A column as int32 ``[n]``; refuses what is missing or no whole number, and names the first such row."""
    numbers = decimal_numbers(values, what, file)
    if (bad := numbers != np.round(numbers)).any():
        _refuse(values, bad, what, "whole numbers", file)
    if (bad := np.abs(numbers) > np.iinfo(np.int32).max).any():
        _refuse(values, bad, what, "numbers in the int32 range", file)
    return numbers.astype(np.int32)


def decimal_numbers(values: pd.Series, what: str, file: Path) -> np.ndarray:
    """A column as float64 ``[n]``; refuses what is missing, infinite or no number, and names the first such row."""
    numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(float, na_value=np.nan)
    if (bad := ~np.isfinite(numbers)).any():
        _refuse(values, bad, what, "a finite number for each spot", file)
    return numbers


def _refuse(values: pd.Series, bad: np.ndarray, what: str, expected: str, file: Path) -> None:
    examples = some(f"{value!r} at {spot}" for spot, value in values[bad].head(6).items())
    found = f"{number(int(bad.sum()), 'bad value')} of {what} ({examples})"
    raise section_error(file, found, expected, f"correct {what} in the file")
