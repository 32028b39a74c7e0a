"""From counts to what encoders are fitted on: shared genes, normalisation, scaling, smoothing over the graph.

Every step takes one section or says why it looks at several. No method lives here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import sparse

from science.spatial.encoders.base import EncoderError
from science.spatial.section import Section

TARGET_SUM = 1e4
CLIP = 10.0
HVGFlavor = Literal["seurat", "seurat_v3"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP on one thread: how they split sums over threads would change the last bits of an encoder."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def ordered_cohort(cohort: Sequence[Section]) -> list[Section]:
    """The sections sorted by key, so that the order in which a cohort is written down decides nothing.

    Raises
    ------
    EncoderError : no section, or one named twice.
    """
    keys = [section.key for section in cohort]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if not keys or repeated:
        found = f"names {', '.join(repeated)} more than once" if repeated else "is empty"
        raise EncoderError(f"the cohort {found}; expected each section once: correct the encoder's cohort")
    return sorted(cohort, key=lambda section: section.key)


def shared_genes(cohort: Sequence[Section], at_least: int = 1) -> np.ndarray:
    """Genes that every section of the cohort has, sorted, str ``[n_genes]``.

    Raises
    ------
    EncoderError : fewer than ``at_least``; it names the sections, their numbers of genes and some names.
    """
    shared = set(cohort[0].genes.tolist()).intersection(*(section.genes.tolist() for section in cohort[1:]))
    if len(shared) < at_least:
        sections = "; ".join(f"{s.key}: {s.n_genes} genes such as {', '.join(s.genes[:3])}" for s in cohort)
        raise EncoderError(
            f"the cohort's sections share {len(shared)} genes, expected at least {at_least} ({sections}). Check that "
            "all name genes alike (symbols or Ensembl ids) and leave out the section that does not fit"
        )
    return np.array(sorted(shared), dtype=str)


def counts_of(section: Section, genes: np.ndarray) -> sparse.csr_matrix:
    """Counts of the given genes, which the section must have, in their order: CSR ``[n_spots, len(genes)]``."""
    order = np.argsort(section.genes)
    return section.counts[:, order[np.searchsorted(section.genes, genes, sorter=order)]].tocsr()


def log_normalised(section: Section, genes: np.ndarray) -> sparse.csr_matrix:
    """log1p(count / sum_umi * 1e4), CSR float32 ``[n_spots, len(genes)]``.

    The divisor is the spot's UMIs over ALL genes: ``counts`` may hold a subset, whose share of the UMIs differs by
    layer.

    Raises
    ------
    EncoderError : a spot without UMIs.
    """
    empty = int((section.sum_umi <= 0).sum())
    if empty:
        raise EncoderError(f"section {section.key}: {empty} spots have sum_umi 0; leave them out when it is loaded")
    scaled = sparse.csr_matrix(sparse.diags(TARGET_SUM / section.sum_umi) @ counts_of(section, genes))
    scaled.data = np.log1p(scaled.data).astype(np.float32)
    return scaled


def standardised(section: Section, genes: np.ndarray) -> np.ndarray:
    """Log-normalised counts, z-scored per gene within THIS section, clipped to +-10: float32 ``[n_spots, len(genes)]``.

    Scaling within the section takes out what differs between sections by gene (depth, probes, batch) and needs no
    other section, so a new one is treated as the cohort was. A gene that does not vary becomes 0, its mean.
    """
    z = log_normalised(section, genes).toarray()
    mean, deviation = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
    z -= mean.astype(np.float32)
    z /= np.where(deviation > 0, deviation, 1.0).astype(np.float32)
    return np.clip(z, -CLIP, CLIP, out=z)


def highly_variable(cohort: Sequence[Section], genes: np.ndarray, n_top: int, flavor: HVGFlavor) -> np.ndarray:
    """Which of ``genes`` are the ``n_top`` highly variable ones of the cohort (scanpy), bool ``[len(genes)]``.

    Chosen with ``batch_key``: ranked within each section, then merged. Pooled, a gene that differs only BETWEEN the
    sections (a batch effect) would count as variable; it says nothing about niches, and z-scoring would erase it.

    Parameters
    ----------
    flavor : 'seurat' (dispersion of log-normalised counts) or 'seurat_v3' (variance of raw counts against a loess
        trend). With ``n_top`` or fewer genes all are taken.
    """
    if flavor not in ("seurat", "seurat_v3"):
        raise EncoderError(f"hvg_flavor is {flavor!r}; expected 'seurat' or 'seurat_v3'")
    if len(genes) <= n_top:
        return np.ones(len(genes), dtype=bool)
    import anndata
    import pandas as pd
    import scanpy

    values = counts_of if flavor == "seurat_v3" else log_normalised
    keys = np.repeat([section.key for section in cohort], [section.n_spots for section in cohort])
    stacked = anndata.AnnData(
        X=sparse.vstack([values(section, genes) for section in cohort], format="csr").astype(np.float32),
        obs=pd.DataFrame({"section": keys}, index=pd.RangeIndex(len(keys)).astype(str)),
        var=pd.DataFrame(index=pd.Index(genes.astype(object))),
    )
    table = scanpy.pp.highly_variable_genes(
        stacked, n_top_genes=n_top, flavor=flavor, batch_key="section", inplace=False
    )
    # 'seurat_v3' answers in the order of the genes, 'seurat' with batches sorted by rank: align by name.
    return table["highly_variable"].reindex(genes).to_numpy(dtype=bool)


def smoothed(z: np.ndarray, adjacency: sparse.csr_matrix, steps: int) -> np.ndarray:
    """Mean over each spot and its neighbours, ``steps`` times: z <- rownorm(A + I) z, float64 ``[n_spots, d]``."""
    walk = adjacency.astype(np.float64) + sparse.identity(adjacency.shape[0], format="csr")
    walk = sparse.diags(1.0 / np.asarray(walk.sum(axis=1)).ravel()) @ walk
    z = np.asarray(z, np.float64)
    for _ in range(steps):
        z = walk @ z
    return z
