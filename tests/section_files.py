"""Small section files for tests, and the means to break them one at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from science.spatial.section import Section
from science.spatial.simulate import simulate_cortex, write_annotated, write_space_ranger
from science.spatial.space_ranger import COUNTS, POSITION_COLUMNS


@functools.cache
def small_section(key: str = "151673", seed: int = 1) -> Section:
    """About 130 spots, 60 genes."""
    return simulate_cortex(key, seed=seed, n_rows=14, n_cols=10, n_genes=60)


def space_ranger_folder(folder: Path, layout: str = "list") -> tuple[Path, Path]:
    """A Space Ranger folder of the small section, and its table of labels."""
    labels = write_space_ranger(small_section(), folder, layout)  # type: ignore[arg-type]
    return folder, labels


def h5ad(path: Path, edit: Callable[[anndata.AnnData], anndata.AnnData | None] | None = None) -> Path:
    """An h5ad of the small section after `edit`, which changes the AnnData in place or returns another."""
    write_annotated(small_section(), path)
    if edit is not None:
        adata = anndata.read_h5ad(path)
        edited = edit(adata)
        (adata if edited is None else edited).write_h5ad(path)
    return path


def edit_matrix(folder: Path, **datasets: np.ndarray) -> Path:
    """Replace datasets of the count file; '/' in a name is written as two underscores."""
    path = folder / COUNTS
    with h5py.File(path, "r+") as file:
        for name, values in datasets.items():
            dataset = "matrix/" + name.replace("__", "/")
            del file[dataset]
            file.create_dataset(dataset, data=values)
    return path


def matrix(folder: Path, name: str) -> np.ndarray:
    with h5py.File(folder / COUNTS, "r") as file:
        return file["matrix/" + name][()]


def edit_positions(folder: Path, edit: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Path:
    """Change the positions of a folder in the layout without header; cells are strings."""
    path = folder / "spatial" / "tissue_positions_list.csv"
    table = pd.read_csv(path, header=None, names=list(POSITION_COLUMNS), dtype=str)
    edited = edit(table)
    (table if edited is None else edited).to_csv(path, header=False, index=False)
    return path


def truncate(path: Path, share: float = 0.6) -> Path:
    """Cut a file off, as a copy that broke."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def assert_equal_sections(a: Section, b: Section) -> None:
    assert (a.key, a.simulated, a.image_scale, a.sum_umi_from) == (b.key, b.simulated, b.image_scale, b.sum_umi_from)
    for name in ("genes", "barcodes", "array_row", "array_col", "pixel", "layer", "sum_umi"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype.kind == right.dtype.kind, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    for name in ("counts", "adjacency"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype and left.has_sorted_indices and right.has_sorted_indices, name
        assert (left != right).nnz == 0, name
    assert (a.image is None) == (b.image is None)
    if a.image is not None and b.image is not None:
        np.testing.assert_array_equal(a.image, b.image)
