"""Reading the output folder of Space Ranger (10x Visium).

Counts from `filtered_feature_bc_matrix.h5`; positions from `spatial/` in both layouts, without header (Space Ranger 1,
HumanPilot) and with (Space Ranger 2 and later). Visium HD is refused: its bins are no hex grid. Labels are not part of
this format, see `labels.py`.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from science.spatial.hdf5 import reading_hdf5
from science.spatial.histology import read_image
from science.spatial.labels import mismatch_advice
from science.spatial.section_checks import check_barcodes, integer_counts, section_error, some
from science.spatial.source import SourceSpots, barcode_array, decimal_numbers, gene_identifiers, whole_numbers

COUNTS = "filtered_feature_bc_matrix.h5"
POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions_list.txt")
SCALEFACTORS = "scalefactors_json.json"
LOWRES_IMAGE = "tissue_lowres_image.png"
# Stands in a folder that `simulate.py` wrote, so that invented counts cannot pass for tissue.
SIMULATED_MARKER = "SIMULATED.txt"
POSITION_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
MATRIX_DATASETS = (
    "barcodes",
    "data",
    "indices",
    "indptr",
    "shape",
    "features/id",
    "features/name",
    "features/feature_type",
)


@dataclass(frozen=True)
class SpaceRangerFiles:
    """Files of one output folder; image, scale factors and marker may be absent."""

    counts: Path
    positions: Path
    scalefactors: Path | None
    image: Path | None
    marker: Path | None

    def all(self) -> list[Path]:
        """The files that are there, in a fixed order."""
        every = (self.counts, self.positions, self.scalefactors, self.image, self.marker)
        return [file for file in every if file is not None]


def find_files(folder: Path) -> SpaceRangerFiles:
    """Find the files of a Space Ranger folder.

    Raises
    ------
    SectionError : counts or positions missing, two tables of positions, or Visium HD.
    """
    spatial = folder / "spatial"
    _refuse_visium_hd(folder)
    if not (folder / COUNTS).is_file():
        there = some(sorted(file.name for file in folder.iterdir())) or "nothing"
        to_do = (
            f"give the folder {folder / 'outs'}"
            if (folder / "outs" / COUNTS).is_file()
            else ("give the 'outs' folder of Space Ranger; cut any prefix off the file's name")
        )
        raise section_error(folder / COUNTS, f"no such file (the folder holds {there})", "the counts", to_do)
    positions = [spatial / name for name in POSITIONS if (spatial / name).is_file()]
    if not positions:
        raise section_error(
            spatial / POSITIONS[0],
            "no such file",
            f"one of {', '.join(POSITIONS)}",
            "copy the folder 'spatial' of the same Space Ranger run beside the counts",
        )
    if len(positions) > 1:
        found = f"two tables of positions ({some(file.name for file in positions)})"
        raise section_error(spatial, found, "one", "remove the one that is not of this section")
    optional = (spatial / SCALEFACTORS, spatial / LOWRES_IMAGE, folder / SIMULATED_MARKER)
    return SpaceRangerFiles(folder / COUNTS, positions[0], *(file if file.is_file() else None for file in optional))


def read_space_ranger(folder: Path) -> tuple[SourceSpots, np.ndarray]:
    """Read a Space Ranger folder.

    Returns
    -------
    the spots, in the order of the counts, and bool ``[n_spots]``: which of them are in tissue.
    """
    files = find_files(folder)
    counts, genes, barcodes = read_counts(files.counts)
    positions = read_positions(files.positions)
    here = _positions_of(barcodes, positions, files)
    spots = SourceSpots(
        files={
            "counts": files.counts,
            "positions": files.positions,
            "scale": files.scalefactors or folder / "spatial" / SCALEFACTORS,
            "image": files.image or folder / "spatial" / LOWRES_IMAGE,
        },
        counts=counts,
        genes=genes,
        barcodes=barcodes,
        array_row=here["array_row"].to_numpy(np.int32),
        array_col=here["array_col"].to_numpy(np.int32),
        pixel=here[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float),
        sum_umi=np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel().astype(float),
        sum_umi_from="counts",
        layer=None,
        image=read_image(files.image) if files.image else None,
        image_scale=read_image_scale(files.scalefactors) if files.scalefactors else None,
        simulated=files.marker is not None,
    )
    return spots, here["in_tissue"].to_numpy(bool)


def read_counts(path: Path) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Read a 10x feature-barcode matrix: counts ``[n_spots, n_genes]``, gene identifiers, barcodes.

    Only features of type 'Gene Expression' are kept.

    Raises
    ------
    SectionError : truncated, another kind of HDF5 file, or unusable counts, genes or barcodes.
    """
    import scanpy

    to_do = "copy it again from the Space Ranger output and compare its size"
    with reading_hdf5(path, "a complete 10x matrix (HDF5)", to_do), warnings.catch_warnings():
        # Repeated symbols are normal, see gene_identifiers; repeated barcodes are refused below.
        warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique")
        _check_layout(path)
        adata = scanpy.read_10x_h5(path, gex_only=False)
    barcodes = barcode_array(adata.obs_names, path)
    # Checked before the features are chosen: scanpy's own choice reads past the end of a matrix with broken indices.
    counts = integer_counts(adata.X, path)
    expression = (adata.var["feature_types"] == "Gene Expression").to_numpy()
    var = adata.var[expression]
    return counts[:, expression], gene_identifiers(var.index, var["gene_ids"], path), barcodes


def _check_layout(path: Path) -> None:
    """scanpy reports a missing dataset as a bare Exception; look first, to name it."""
    import h5py

    with h5py.File(path, "r") as file:
        missing = [name for name in MATRIX_DATASETS if f"matrix/{name}" not in file]
        groups = some(file)
    if missing:
        raise section_error(
            path,
            f"an HDF5 file without matrix/{missing[0]} (it holds: {groups or 'nothing'})",
            "the feature-barcode matrix of Space Ranger",
            "give filtered_feature_bc_matrix.h5 itself; an h5ad is given as a file, not in a folder",
        )


def read_positions(path: Path) -> pd.DataFrame:
    """Read a table of tissue positions; one row a barcode, columns as in `POSITION_COLUMNS` after the barcode.

    Whether there is a header is seen in the first line, not in the name of the file.

    Raises
    ------
    SectionError : other columns, barcodes twice, or values that are no numbers.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline().strip()
        table = pd.read_csv(path, header=None, dtype=str, skiprows=int(first.startswith("barcode")), encoding="utf-8")
    except ValueError as error:  # also pandas' ParserError and EmptyDataError, and UnicodeDecodeError
        raise section_error(
            path, f"no readable table ({error})", f"CSV: {', '.join(POSITION_COLUMNS)}", "copy it again"
        ) from error
    header = first.split(",") if first.startswith("barcode") else list(POSITION_COLUMNS)
    if header != list(POSITION_COLUMNS) or table.shape[1] != len(POSITION_COLUMNS):
        found = f"{table.shape[1]} columns" + (f" ({', '.join(header)})" if first.startswith("barcode") else "")
        raise section_error(path, found, ", ".join(POSITION_COLUMNS), "give the table as Space Ranger wrote it")
    table.columns = pd.Index(POSITION_COLUMNS)
    barcodes = table.pop("barcode").fillna("").to_numpy(dtype=str)
    check_barcodes(barcodes, path)
    table.index = pd.Index(barcodes)
    positions = pd.DataFrame(
        {
            name: (whole_numbers if name in POSITION_COLUMNS[:4] else decimal_numbers)(table[name], name, path)
            for name in POSITION_COLUMNS[1:]
        },
        index=table.index,
    )
    if not positions["in_tissue"].isin((0, 1)).all():
        found = f"in_tissue values {some(sorted(positions['in_tissue'].unique()))}"
        raise section_error(path, found, "0 or 1", "give the table as Space Ranger wrote it")
    return positions


def read_image_scale(path: Path) -> float:
    """Pixels of the low-resolution image per pixel of the full-resolution image, from scalefactors_json.json."""
    try:
        scale = json.loads(path.read_text(encoding="utf-8"))["tissue_lowres_scalef"]
    except (ValueError, KeyError, TypeError) as error:
        raise section_error(
            path, f"no tissue_lowres_scalef ({error!r})", "the JSON that Space Ranger wrote", "copy it again"
        ) from error
    if not (isinstance(scale, int | float) and np.isfinite(scale) and scale > 0):
        raise section_error(path, f"tissue_lowres_scalef {scale!r}", "a number above 0", "copy the file again")
    return float(scale)


def _positions_of(barcodes: np.ndarray, positions: pd.DataFrame, files: SpaceRangerFiles) -> pd.DataFrame:
    """Rows of `positions` in the order of `barcodes`; refuses counts and positions of two sections."""
    absent = barcodes[~np.isin(barcodes, positions.index)]
    if absent.size:
        raise section_error(
            files.positions,
            f"no position for {absent.size} of {len(barcodes)} barcodes of {files.counts.name} ({some(absent)})",
            "a position for each barcode of the counts",
            mismatch_advice(str(absent[0]), set(positions.index)),
        )
    here = positions.loc[barcodes]
    # All Visium slides share one list of barcodes, so the positions of another section know every barcode too; only
    # the spots in tissue differ. Either difference alone is an edit (filtered counts, in_tissue set to 0).
    outside = barcodes[here["in_tissue"] == 0]
    without_counts = np.setdiff1d(positions.index[positions["in_tissue"] == 1], barcodes)
    if outside.size and without_counts.size:
        raise section_error(
            files.positions,
            f"{outside.size} barcodes of {files.counts.name} outside the tissue ({some(outside[:2])}), and "
            f"{without_counts.size} spots in tissue without counts ({some(without_counts[:2])})",
            "counts and positions of one section",
            "check that both files are of the same section",
        )
    return here


def _refuse_visium_hd(folder: Path) -> None:
    for sign in (folder / "spatial" / "tissue_positions.parquet", folder / "binned_outputs"):
        if sign.exists():
            raise section_error(
                sign,
                "an output of Visium HD",
                "Visium (55 um spots on a hex grid)",
                "Visium HD is not supported as a folder; bin it, and give an h5ad with graph='knn' or 'delaunay'",
            )
