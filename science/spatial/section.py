"""One validated section of tissue, and its canonical file.

`Section` is what every method of the spatial stream takes. It is built by `load.py` (Space Ranger folder or h5ad),
which validates; the canonical h5ad written here follows the scanpy conventions, so any tool of the field opens it, and
equal sections have equal bytes. The rules that a section obeys stand in `section_checks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from science.spatial.hdf5 import reading_hdf5
from science.spatial.section_checks import SectionError, check_section, section_error

__all__ = ["CORTEX_LAYERS", "Section", "SectionError", "read_section", "write_section"]

CORTEX_LAYERS = ("Layer1", "Layer2", "Layer3", "Layer4", "Layer5", "Layer6", "WM")


@dataclass(frozen=True)
class Section:
    """Counts, positions, labels and image of one section.

    Attributes
    ----------
    key : partition key of the section; no '/'.
    counts : CSR int32 ``[n_spots, n_genes]``, UMI counts; may hold a subset of the genes.
    genes : str array ``[n_genes]`` without duplicates: the stable identifier (Ensembl) where the source has one, else
        the symbol.
    barcodes : str array ``[n_spots]`` without duplicates.
    array_row, array_col : int32 ``[n_spots]``, position on the Visium grid; on platforms without a grid the pixel
        position in units of the median distance between nearest neighbours.
    pixel : float64 ``[n_spots, 2]``, x and y in pixels of the full-resolution image.
    layer : str array ``[n_spots]``; the empty string where a spot has no label.
    sum_umi : float64 ``[n_spots]``, UMIs over ALL genes of the spot, also those that ``counts`` leaves out.
    adjacency : CSR bool ``[n_spots, n_spots]``, symmetric, empty diagonal: the neighbour graph.
    image : uint8 ``[height, width, 3]`` low-resolution histology, or None.
    image_scale : pixels of ``image`` per pixel of the full-resolution image.
    simulated : True where no tissue stands behind the numbers.
    sum_umi_from : where ``sum_umi`` was taken from: ``obs.sum_umi``, ``obs.total_counts``, or ``counts``, their sum.
    """

    key: str
    counts: sparse.csr_matrix
    genes: np.ndarray
    barcodes: np.ndarray
    array_row: np.ndarray
    array_col: np.ndarray
    pixel: np.ndarray
    layer: np.ndarray
    sum_umi: np.ndarray
    adjacency: sparse.csr_matrix
    image: np.ndarray | None = None
    image_scale: float = 1.0
    simulated: bool = False
    sum_umi_from: str = "counts"

    @property
    def n_spots(self) -> int:
        """Number of spots, labelled or not."""
        return len(self.barcodes)

    @property
    def n_genes(self) -> int:
        """Number of genes that `counts` holds."""
        return len(self.genes)

    @property
    def labelled(self) -> np.ndarray:
        """bool ``[n_spots]``: spots that have a layer."""
        return self.layer != ""


def write_section(section: Section, path: Path) -> None:
    """Write the canonical h5ad of a section.

    The same section gives the same bytes in every process (with the pinned anndata and h5py), so its hash may stand for
    its contents.

    Raises
    ------
    SectionError : the section breaks a rule of `section_checks.py`; nothing is written.
    """
    import anndata
    import pandas as pd

    check_section(section, f"section {section.key!r}")
    counts, adjacency = section.counts.sorted_indices(), section.adjacency.sorted_indices()
    adata = anndata.AnnData(
        X=counts.astype(np.int32),
        obs=pd.DataFrame(
            {
                "array_row": section.array_row.astype(np.int32),
                "array_col": section.array_col.astype(np.int32),
                "layer": section.layer.astype(object),
                "sum_umi": section.sum_umi.astype(np.float64),
            },
            index=pd.Index(section.barcodes.astype(object)),
        ),
        var=pd.DataFrame(index=pd.Index(section.genes.astype(object))),
        obsm={"spatial": section.pixel.astype(np.float64)},
        obsp={"spatial_connectivities": adjacency.astype(np.float32)},
    )
    spatial: dict = {"scalefactors": {"tissue_lowres_scalef": float(section.image_scale)}}
    if section.image is not None:
        spatial["images"] = {"lowres": section.image}
    adata.uns = {
        "section": section.key,
        "simulated": bool(section.simulated),
        "spatial": {section.key: spatial},
        "sum_umi_from": section.sum_umi_from,
    }
    adata.write_h5ad(path, compression="gzip")


def read_section(path: Path) -> Section:
    """Read a canonical h5ad written by `write_section`, and check it again.

    Raises
    ------
    SectionError : the file is missing, truncated, not a canonical section, or breaks a rule of `section_checks.py`.
    """
    import anndata

    if not path.is_file():
        raise section_error(path, "no such file", "the canonical file of a section", "materialise the section again")
    to_do = "the file was cut off or altered: materialise the section again"
    with reading_hdf5(path, "the complete canonical h5ad of a section", to_do):
        adata = anndata.read_h5ad(path)
    try:
        section = _from_canonical(adata)
    except KeyError as error:
        raise section_error(
            path,
            f"an h5ad without {error}",
            "the canonical h5ad of a section, as write_section writes it",
            "read any other h5ad with load_section",
        ) from error
    check_section(section, path)
    return section


def _from_canonical(adata) -> Section:
    key = str(adata.uns["section"])
    spatial = adata.uns["spatial"][key]
    return Section(
        key=key,
        counts=sparse.csr_matrix(adata.X),
        genes=adata.var_names.to_numpy(dtype=str),
        barcodes=adata.obs_names.to_numpy(dtype=str),
        array_row=adata.obs["array_row"].to_numpy(np.int32),
        array_col=adata.obs["array_col"].to_numpy(np.int32),
        pixel=np.asarray(adata.obsm["spatial"], np.float64),
        layer=adata.obs["layer"].astype(str).to_numpy(dtype=str),
        sum_umi=adata.obs["sum_umi"].to_numpy(np.float64),
        adjacency=sparse.csr_matrix(adata.obsp["spatial_connectivities"]).astype(bool),
        image=np.asarray(spatial["images"]["lowres"]) if "images" in spatial else None,
        image_scale=float(spatial["scalefactors"]["tissue_lowres_scalef"]),
        simulated=bool(adata.uns["simulated"]),
        sum_umi_from=str(adata.uns["sum_umi_from"]),
    )
