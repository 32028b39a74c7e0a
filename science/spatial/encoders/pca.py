"""`pca` and `pca_smooth`: one PCA of all sections of a cohort, raw or averaged over each section's graph.

`pca_smooth` is the bar that any model must beat. The PCA itself, `JointPCA`, also serves `partition_bank.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from science.spatial.encoders.base import MIN_GENE_SHARE, Encoder, EncoderError, Progress, no_progress
from science.spatial.encoders.base import constructor_arguments as constructor
from science.spatial.encoders.preprocess import (
    HVGFlavor,
    highly_variable,
    one_thread,
    ordered_cohort,
    shared_genes,
    smoothed,
    standardised,
)
from science.spatial.section import Section


@dataclass(frozen=True)
class JointPCA:
    """Axes of one PCA over the spots of several sections.

    Attributes
    ----------
    mean : float32 ``[n_genes]``; near 0, as genes are z-scored per section, but for what clipping moves.
    axes : float32 ``[n_genes, n_components]``, orthonormal columns.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, z: np.ndarray, n_components: int, seed: int) -> Self:
        """Fit to standardised expression ``[n_spots, n_genes]``.

        ARPACK converges to the exact leading axes, so the seed (its start vector) moves only the last digits.

        Raises
        ------
        EncoderError : as many components as spots or genes, or more.
        """
        from sklearn.decomposition import PCA

        if n_components >= min(z.shape):
            raise EncoderError(
                f"{n_components} components of {z.shape[0]} spots x {z.shape[1]} shared genes; expected fewer "
                "components than either: lower n_components, or fit on larger sections with more genes in common"
            )
        pca = PCA(n_components, svd_solver="arpack", random_state=seed).fit(z)
        return cls(pca.mean_.astype(np.float32), np.ascontiguousarray(pca.components_.T, dtype=np.float32))

    def project(self, z: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Scores ``[n_spots, n_components]`` of standardised expression of the genes that are ``present``.

        Genes that are missing contribute nothing to any score, which is what their mean, 0, would contribute: no
        counts are made up. Scores shrink by the loading mass that is missing (`retained`).
        """
        return (z - self.mean[present]) @ self.axes[present]

    def retained(self, present: np.ndarray) -> np.ndarray:
        """Share of each component's squared loadings that lies on the genes present, ``[n_components]``, 0 to 1."""
        return (self.axes[present].astype(np.float64) ** 2).sum(axis=0)


class PCAEncoder(Encoder):
    """Joint PCA of highly variable shared genes, log-normalised, z-scored per section, clipped."""

    libraries = ("numpy", "scipy", "scikit-learn", "scanpy", "scikit-misc")

    def __init__(self, pca: JointPCA, **described: Any) -> None:
        super().__init__(**described)
        self.pca = pca

    @classmethod
    def fit(
        cls,
        cohort: Sequence[Section],
        *,
        seed: int,
        progress: Progress = no_progress,
        n_components: int = 30,
        n_top_genes: int = 3000,
        hvg_flavor: HVGFlavor = "seurat",
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> Self:
        """Fit on the cohort.

        Parameters
        ----------
        n_components : dimensions of the embedding.
        n_top_genes : highly variable genes used; all shared genes where there are no more.
        hvg_flavor : 'seurat' reproduces the reference baseline (151673 -> 151676 and back, four smoothing steps:
            metric A of Layer3 .65/.67, all .61/.60). 'seurat_v3' is stronger there (Layer3 .72/.74, all .68/.67)
            and somewhat stronger on the sibling sections 151674 -> 151676 (Layer3 .68/.70 for .65/.67): list it as a
            variant of its own.
        min_gene_share : smallest share of the encoder's genes with which a section is embedded.

        Raises
        ------
        EncoderError : sections that share too few genes (named), or a section named twice.
        """
        params = {
            "n_components": n_components,
            "n_top_genes": n_top_genes,
            "hvg_flavor": hvg_flavor,
            "min_gene_share": min_gene_share,
        }
        return cls._fit(cohort, seed, progress, params)

    @classmethod
    def _fit(cls, cohort: Sequence[Section], seed: int, progress: Progress, params: dict[str, Any]) -> Self:
        sections = ordered_cohort(cohort)
        genes = shared_genes(sections, at_least=params["n_components"] + 1)
        progress(0.0, f"highly variable genes among {len(genes)} shared by {len(sections)} sections")
        with one_thread():
            genes = genes[highly_variable(sections, genes, params["n_top_genes"], params["hvg_flavor"])]
            progress(0.3, f"joint PCA of {len(genes)} genes")
            stacked = np.vstack([standardised(section, genes) for section in sections])
            pca = JointPCA.fit(stacked, params["n_components"], seed)
        progress(1.0, "fitted")
        return cls(pca, cohort=[section.key for section in sections], genes=genes, seed=seed, params=params)

    def embed(self, section: Section) -> np.ndarray:
        """Scores of every spot, float32 ``[n_spots, n_components]``.

        Plain projection on the genes present. Tried on 151674, which has 50 % of the genes of an encoder fitted on
        151673 + 151676: metric A against 151676 plain .44 (pca) and .58 (pca_smooth), least squares on the
        loadings present .42 and .58; against 151673 .45/.59 and .44/.60. Least squares undoes the shrinkage of the
        weak components, which are mostly noise; cosine is better off with it.
        """
        present = self.present_genes(section)
        with one_thread():
            return self.pca.project(standardised(section, self.genes[present]), present).astype(np.float32)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Mean and axes of the PCA."""
        return {"mean": self.pca.mean, "axes": self.pca.axes}, self.description()

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Self:
        """The encoder that `state` describes."""
        return cls(JointPCA(arrays["mean"], arrays["axes"]), **constructor(metadata))


class SmoothedPCAEncoder(PCAEncoder):
    """`PCAEncoder`, then the scores averaged over neighbours several times: X <- rownorm(A + I) X."""

    @classmethod
    def fit(
        cls,
        cohort: Sequence[Section],
        *,
        seed: int,
        progress: Progress = no_progress,
        n_components: int = 30,
        n_top_genes: int = 3000,
        hvg_flavor: HVGFlavor = "seurat",
        steps: int = 4,
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> Self:
        """Fit on the cohort; parameters as in `PCAEncoder.fit`, and ``steps``, how often scores are averaged."""
        params = {
            "n_components": n_components,
            "n_top_genes": n_top_genes,
            "hvg_flavor": hvg_flavor,
            "steps": steps,
            "min_gene_share": min_gene_share,
        }
        return cls._fit(cohort, seed, progress, params)

    def embed(self, section: Section) -> np.ndarray:
        """Averaged scores of every spot over the section's own graph, float32 ``[n_spots, n_components]``."""
        return smoothed(super().embed(section), section.adjacency, self.params["steps"]).astype(np.float32)
