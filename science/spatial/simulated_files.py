"""Writing a section as a user would bring it: a Space Ranger folder, or an h5ad with its image beside it.

For tests and the demo. What is simulated is marked so, and `load.py` carries the mark on. The canonical file of a
section is not written here but in `section.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from science.spatial.section import Section
from science.spatial.space_ranger import COUNTS, LOWRES_IMAGE, POSITION_COLUMNS, SCALEFACTORS, SIMULATED_MARKER

LABELS = "barcode_level_layer_map.tsv"
POSITION_FILE = {"list": "tissue_positions_list.csv", "header": "tissue_positions.csv"}
MARKER_TEXT = "Simulated by tracebed: no tissue stands behind these numbers.\n"


def grid_barcode(row: int, col: int) -> str:
    """Barcode of a place on the grid, the same in every section, as on real Visium slides: 16 bases and '-1'."""
    # An odd factor permutes the numbers below 4^16, so no two places share a barcode.
    number = ((int(row) * 1024 + int(col) + 1) * 2654435761) % 4**16
    return "".join("ACGT"[(number >> shift) & 3] for shift in range(0, 32, 2)) + "-1"


def write_space_ranger(section: Section, folder: Path, layout: Literal["list", "header"] = "list") -> Path:
    """Write `section` as Space Ranger would: barcodes sorted, positions of all places of the grid, in tissue or not.

    Parameters
    ----------
    layout : 'list' (Space Ranger 1, no header) or 'header' (2 and later) for the table of positions.

    Returns
    -------
    path of the table of labels (barcode, section, L1..L6|WM; labelled spots only), written beside the counts.
    """
    spatial = folder / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    order = np.argsort(section.barcodes)
    _write_10x_matrix(section, order, folder / COUNTS)
    _all_places(section).to_csv(spatial / POSITION_FILE[layout], index=False, header=layout == "header")
    (spatial / SCALEFACTORS).write_text(json.dumps(_scalefactors(section)), encoding="utf-8")
    if section.image is not None:
        _write_png(section.image, spatial / LOWRES_IMAGE)
    if section.simulated:
        (folder / SIMULATED_MARKER).write_text(MARKER_TEXT, encoding="utf-8")
    rows = [
        f"{section.barcodes[i]}\t{section.key}\t{section.layer[i].replace('Layer', 'L')}\n"
        for i in order
        if section.layer[i]
    ]
    (folder / LABELS).write_text("".join(rows), encoding="utf-8")
    return folder / LABELS


def write_annotated(section: Section, path: Path) -> Path | None:
    """Write `section` as an h5ad with labels in ``obs['layer']``, and its image as a PNG beside it.

    Returns
    -------
    path of the image, None where the section has none.
    """
    import anndata

    obs = pd.DataFrame(
        {
            "in_tissue": 1,
            "array_row": section.array_row,
            "array_col": section.array_col,
            "layer": pd.Categorical([layer or None for layer in section.layer.tolist()]),
            "sum_umi": section.sum_umi.astype(np.int64),
        },
        index=pd.Index(section.barcodes.astype(object)),
    )
    var = pd.DataFrame(index=pd.Index(section.genes.astype(object)))
    adata = anndata.AnnData(section.counts, obs=obs, var=var, obsm={"spatial": section.pixel})
    adata.uns = {"section": section.key, "simulated": section.simulated, "scalefactors": _scalefactors(section)}
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path, compression="gzip")
    if section.image is None:
        return None
    image = path.with_name(f"{path.stem}_{LOWRES_IMAGE}")
    _write_png(section.image, image)
    return image


def _write_10x_matrix(section: Section, order: np.ndarray, path: Path) -> None:
    """Feature-barcode matrix as of Space Ranger 1 and later; genes x barcodes by column is spots x genes by row."""
    import h5py

    counts = section.counts[order]
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, "library_ids": np.array([section.key], dtype="S")})
        matrix = file.create_group("matrix")
        columns = {
            "barcodes": section.barcodes[order].astype("S"),
            "data": counts.data.astype(np.int32),
            "indices": counts.indices.astype(np.int64),
            "indptr": counts.indptr.astype(np.int64),
            "shape": np.array([section.n_genes, section.n_spots], dtype=np.int32),
            "features/id": section.genes.astype("S"),
            "features/name": section.genes.astype("S"),
            "features/feature_type": np.full(section.n_genes, b"Gene Expression"),
            "features/genome": np.full(section.n_genes, b"simulated"),
            "features/_all_tag_keys": np.array([b"genome"]),
        }
        for name, values in columns.items():
            matrix.create_dataset(name, data=values, compression="gzip")


def _all_places(section: Section) -> pd.DataFrame:
    """Every place of the grid, with barcode and pixel position; in_tissue is 1 where the section has a spot."""
    row, col = (grid.ravel() for grid in np.mgrid[: section.array_row.max() + 1, : section.array_col.max() + 1])
    on_grid = (row + col) % 2 == (section.array_row[0] + section.array_col[0]) % 2
    row, col = row[on_grid], col[on_grid]
    place_of = {place: i for i, place in enumerate(zip(section.array_row, section.array_col, strict=True))}
    spot = np.array([place_of.get(place, -1) for place in zip(row, col, strict=True)])
    grid = np.stack([section.array_row, section.array_col, np.ones(section.n_spots)], axis=1)
    fit = np.linalg.lstsq(grid, section.pixel, rcond=None)[0]
    pixel = np.round(np.stack([row, col, np.ones(len(row))], axis=1) @ fit)
    pixel[spot >= 0] = np.round(section.pixel[spot[spot >= 0]])
    free = (grid_barcode(place_row, place_col) for place_row, place_col in zip(row, col, strict=True))
    barcodes = [section.barcodes[i] if i >= 0 else other for i, other in zip(spot, free, strict=True)]
    columns = (barcodes, (spot >= 0).astype(int), row, col, pixel[:, 1].astype(int), pixel[:, 0].astype(int))
    return pd.DataFrame(dict(zip(POSITION_COLUMNS, columns, strict=True)))


def _scalefactors(section: Section) -> dict[str, float]:
    return {
        "spot_diameter_fullres": 75.0,
        "tissue_hires_scalef": min(1.0, section.image_scale * 10 / 3),
        "fiducial_diameter_fullres": 113.0,
        "tissue_lowres_scalef": section.image_scale,
    }


def _write_png(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)
