"""Reading a section from an h5ad: counts in X, positions, and possibly labels and image, in the slots of scanpy.

Taken: ``obs`` array_row, array_col, in_tissue, sum_umi or total_counts, and the label column; ``obsm['spatial']``;
``uns['scalefactors']`` or ``uns['spatial'][library]``; ``uns['simulated']``. The canonical file that this project
writes itself is read by `section.read_section`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from science.spatial.hdf5 import reading_hdf5
from science.spatial.histology import rgb
from science.spatial.labels import standard_label
from science.spatial.section_checks import check_pixels, integer_counts, section_error, some
from science.spatial.source import SourceSpots, barcode_array, decimal_numbers, gene_identifiers, whole_numbers

DEFAULT_LABEL_COLUMN = "layer"
# obs columns with the UMIs over all genes, the first one present is taken; the second is scanpy's calculate_qc_metrics.
DEPTH_COLUMNS = ("sum_umi", "total_counts")


def read_annotated(
    path: Path, key: str, *, label_column: str, known_labels: Sequence[str], needs_grid: bool
) -> tuple[SourceSpots, np.ndarray]:
    """Read an h5ad.

    Parameters
    ----------
    key : chooses the library where ``uns['spatial']`` has several.
    label_column : obs column of the labels. Without the default column the section is read without labels; any other
        column must exist.
    needs_grid : whether array_row and array_col must be there (hex graph).

    Returns
    -------
    the spots, and bool ``[n_spots]``: which of them are in tissue.
    """
    adata = _open(path)
    if adata.X is None:
        raise section_error(path, "no X", "raw UMI counts in X", "store the counts in X")
    barcodes = barcode_array(adata.obs_names, path)
    genes = gene_identifiers(adata.var_names, adata.var.get("gene_ids"), path)
    counts = integer_counts(adata.X, path, _where_counts_may_be(adata))
    array_row, array_col = _grid(adata.obs, path, needs_grid)
    image, scale = _image(adata.uns, key, path)
    depth_column = next((name for name in DEPTH_COLUMNS if name in adata.obs), None)
    spots = SourceSpots(
        files={"counts": path, "positions": path, "scale": path, "image": path},
        counts=counts,
        genes=genes,
        barcodes=barcodes,
        array_row=array_row,
        array_col=array_col,
        pixel=_pixels(adata, barcodes, path),
        sum_umi=(
            decimal_numbers(adata.obs[depth_column], depth_column, path)
            if depth_column
            else np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel().astype(float)
        ),
        sum_umi_from=f"obs.{depth_column}" if depth_column else "counts",
        layer=_labels(adata.obs, label_column, known_labels, path),
        image=image,
        image_scale=scale,
        simulated=bool(adata.uns.get("simulated", False)),
    )
    return spots, _in_tissue(adata.obs, path)


def _open(path: Path):
    import anndata
    import h5py

    with reading_hdf5(path, "a complete h5ad", "copy or write the file again"), warnings.catch_warnings():
        # Repeated names are dealt with: genes in gene_identifiers, barcodes refused in barcode_array.
        warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique")
        with h5py.File(path, "r") as file:
            missing = [name for name in ("X", "obs", "var") if name not in file]
            groups = some(file)
        if missing:
            raise section_error(
                path,
                f"an HDF5 file without {', '.join(missing)} (it holds: {groups or 'nothing'})",
                "an h5ad (AnnData)",
                "write it with adata.write_h5ad; a 10x matrix is given as its Space Ranger folder",
            )
        return anndata.read_h5ad(path)


def _where_counts_may_be(adata) -> str:
    if adata.layers:
        return f"adata.layers has {some(adata.layers)}: store the one with the counts in X"
    return "adata.raw exists: perhaps the counts are there" if adata.raw is not None else ""


def _grid(obs: pd.DataFrame, path: Path, needs_grid: bool) -> tuple[np.ndarray | None, np.ndarray | None]:
    missing = [name for name in ("array_row", "array_col") if name not in obs]
    if missing and needs_grid:
        raise section_error(
            path,
            f"no obs column {' and no '.join(missing)} (columns: {some(obs.columns) or 'none'})",
            "array_row and array_col, the positions on the Visium grid",
            "add them from tissue_positions by barcode; for a platform without a grid choose graph='knn' or 'delaunay'",
        )
    if missing:
        return None, None
    return whole_numbers(obs["array_row"], "array_row", path), whole_numbers(obs["array_col"], "array_col", path)


def _pixels(adata, barcodes: np.ndarray, path: Path) -> np.ndarray:
    if "spatial" not in adata.obsm:
        raise section_error(
            path,
            f"no obsm['spatial'] (obsm: {some(adata.obsm) or 'empty'})",
            "x and y of each spot in pixels of the full-resolution image",
            "add it from tissue_positions by barcode",
        )
    try:
        pixel = np.asarray(adata.obsm["spatial"], float)
    except (TypeError, ValueError) as error:
        raise section_error(
            path, f"obsm['spatial'] that is no array of numbers ({error})", "[n_spots, 2]", "store x and y"
        ) from error
    check_pixels(pixel, barcodes, path)
    return pixel


def _in_tissue(obs: pd.DataFrame, path: Path) -> np.ndarray:
    if "in_tissue" not in obs:
        return np.ones(len(obs), bool)
    values = whole_numbers(obs["in_tissue"], "in_tissue", path)
    if not np.isin(values, (0, 1)).all():
        raise section_error(path, f"in_tissue values {some(np.unique(values))}", "0 or 1", "correct obs['in_tissue']")
    return values == 1


def _labels(obs: pd.DataFrame, column: str, known_labels: Sequence[str], path: Path) -> np.ndarray | None:
    if column not in obs:
        if column == DEFAULT_LABEL_COLUMN:
            return None
        raise section_error(
            path, f"no obs column {column!r} (columns: {some(obs.columns)})", "the labels there", "name another column"
        )
    values = obs[column].astype(object)
    raw = values.where(values.notna(), "").astype(str)
    return np.array([standard_label(label, known_labels) for label in raw], dtype=str)


def _image(uns: Mapping[str, Any], key: str, path: Path) -> tuple[np.ndarray | None, float | None]:
    """Image and scale stored in the file, each None where there is none."""
    library: Mapping[str, Any] = {}
    libraries = uns.get("spatial", {})
    if key in libraries:
        library = libraries[key]
    elif len(libraries) == 1:
        library = next(iter(libraries.values()))
    elif libraries:
        raise section_error(
            path,
            f"{len(libraries)} libraries in uns['spatial'] ({some(libraries)})",
            f"one, or one named {key!r}",
            "write one h5ad for each section",
        )
    scale = {**library.get("scalefactors", {}), **uns.get("scalefactors", {})}.get("tissue_lowres_scalef")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise section_error(path, f"tissue_lowres_scalef {scale}", "a number above 0", "correct the scale factors")
    image = library.get("images", {}).get("lowres")
    return None if image is None else rgb(image, path), None if scale is None else float(scale)
