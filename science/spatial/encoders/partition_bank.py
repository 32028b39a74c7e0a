"""`partition_bank`: many hard partitions of the spots; the agreeing third, each as composition of the surroundings.

RM-IDEAL compares which labels lie around two spots. Without labels, clusters stand in for them; no one clustering is
right, so 56 are made (two gene sets, four cluster numbers, two smoothings, three or four dimensions) and those
that agree most with the others are kept. Compositions with disjoint support have cosine exactly 0, as 60 % of RM-IDEAL
has: part of the gain is the shape of the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse

from science.spatial.encoders.base import MIN_GENE_SHARE, Encoder, Progress, no_progress
from science.spatial.encoders.base import constructor_arguments as constructor
from science.spatial.encoders.pca import JointPCA
from science.spatial.encoders.preprocess import (
    HVGFlavor,
    highly_variable,
    one_thread,
    ordered_cohort,
    shared_genes,
    smoothed,
    standardised,
)
from science.spatial.encoders.tied_mixture import TiedMixture, fit_tied_mixture
from science.spatial.section import Section

GENE_SETS = ("all", "hvg")


@dataclass(frozen=True)
class PartitionKind:
    """How one partition is made: gene set, smoothing steps, leading components, clusters."""

    gene_set: str
    smoothing: int
    n_dims: int
    n_clusters: int


@dataclass(frozen=True)
class Partition:
    """A kept partition and its mean adjusted Rand index with all others."""

    kind: PartitionKind
    mixture: TiedMixture
    agreement: float


class PartitionBank(Encoder):
    """Bank of partitions; the embedding has ``sum of n_clusters over kept partitions`` dimensions, none negative."""

    libraries = ("numpy", "scipy", "scikit-learn", "scanpy", "scikit-misc")

    def __init__(
        self, pca: Mapping[str, JointPCA], in_top_genes: np.ndarray, partitions: Sequence[Partition], **described: Any
    ) -> None:
        super().__init__(**described)
        self.pca = dict(pca)
        self.in_gene_set = {"all": np.ones(len(in_top_genes), dtype=bool), "hvg": in_top_genes}
        self.partitions = tuple(partitions)

    @classmethod
    def fit(
        cls,
        cohort: Sequence[Section],
        *,
        seed: int,
        progress: Progress = no_progress,
        n_clusters: Sequence[int] = (6, 7, 8, 9),
        dims_all: Sequence[int] = (15, 20, 30),
        dims_hvg: Sequence[int] = (12, 15, 20, 30),
        smoothing: Sequence[int] = (1, 2),
        n_top_genes: int = 3000,
        hvg_flavor: HVGFlavor = "seurat_v3",
        n_init: int = 5,
        kept_share: float = 1 / 3,
        hops: int = 4,
        min_gene_share: float = MIN_GENE_SHARE,
    ) -> Self:
        """Fit on the cohort.

        Parameters
        ----------
        n_clusters, dims_all, dims_hvg, smoothing : every combination makes a partition.
        n_top_genes, hvg_flavor : highly variable genes. On 151673 + 151676 the kept partitions agree more with
            'seurat_v3' (mean adjusted Rand index .72) than with 'seurat' (.68), a ground that needs no labels; A of
            all layers, looked at too, is .85-.87 against .76. On 151674 + 151676 the two do not differ.
        n_init : k-means starts of each mixture. Chosen on 151674 + 151676: metric A of all layers over seeds 0-2 is
            .79-.88 with 1 start (Layer3 split in two where it is low), .87-.89 with 5, no better with 10.
        kept_share : share of the partitions kept.
        hops : radius of the surroundings.
        min_gene_share : smallest share of the encoder's genes with which a section is embedded.

        Raises
        ------
        EncoderError : sections that share too few genes (named), or a section named twice.
        """
        params: dict[str, Any] = {
            "n_clusters": list(n_clusters),
            "dims_all": list(dims_all),
            "dims_hvg": list(dims_hvg),
            "smoothing": list(smoothing),
            "n_top_genes": n_top_genes,
            "hvg_flavor": hvg_flavor,
            "n_init": n_init,
            "kept_share": kept_share,
            "hops": hops,
            "min_gene_share": min_gene_share,
        }
        sections = ordered_cohort(cohort)
        n_components = {"all": max(dims_all), "hvg": max(dims_hvg)}
        genes = shared_genes(sections, at_least=max(n_components.values()) + 1)
        progress(0.0, f"highly variable genes among {len(genes)} shared by {len(sections)} sections")
        with one_thread():
            in_top_genes = highly_variable(sections, genes, n_top_genes, hvg_flavor)
            progress(0.1, f"joint PCAs of {len(genes)} and {in_top_genes.sum()} genes")
            pca, scores = _joint_scores(
                sections, genes, {"all": np.ones_like(in_top_genes), "hvg": in_top_genes}, n_components, seed
            )
            partitions = _fit_partitions(sections, scores, params, seed, progress)
        progress(1.0, f"kept {len(partitions)} partitions")
        described = {"cohort": [s.key for s in sections], "genes": genes, "seed": seed, "params": params}
        return cls(pca, in_top_genes, partitions, **described)

    def gene_share(self, section: Section) -> float:
        """The smaller of the shares of all genes and of the highly variable ones: either PCA can lack its genes."""
        present = np.isin(self.genes, section.genes)
        return float(min(present[in_set].mean() for in_set in self.in_gene_set.values()))

    def embed(self, section: Section) -> np.ndarray:
        """Compositions of the surroundings of every spot, float32 ``[n_spots, d]``, rows of equal norm."""
        present = self.present_genes(section)
        with one_thread():
            z = standardised(section, self.genes[present])
            scores = {}
            for name, in_set in self.in_gene_set.items():
                has = present[in_set]
                projected = self.pca[name].project(z[:, in_set[present]], has)
                # The mixtures' boundaries were drawn at full scale, so the shrinkage by missing genes is undone. Tried
                # on 151674 with half the genes, against 151676: A .861 and P@50 .34, plain .860 and .33, least
                # squares .864 and .35. No difference that matters; this one has no inverse that could blow up noise.
                scores[name] = projected / self.pca[name].retained(has)
            around = surroundings(section.adjacency, self.params["hops"])
            steps = sorted({partition.kind.smoothing for partition in self.partitions})
            views = {
                (name, n): smoothed(scores[name], section.adjacency, n) for name in self.in_gene_set for n in steps
            }
            return np.hstack([_composition(partition, views, around) for partition in self.partitions])

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Both PCAs, the gene set, and weights, means and precision of each kept mixture."""
        arrays = {"in_top_genes": self.in_gene_set["hvg"]}
        for name, pca in self.pca.items():
            arrays |= {f"pca.{name}.mean": pca.mean, f"pca.{name}.axes": pca.axes}
        kept = []
        for number, partition in enumerate(self.partitions):
            mixture = partition.mixture
            arrays |= {
                f"partition.{number:02d}.weights": mixture.weights,
                f"partition.{number:02d}.means": mixture.means,
                f"partition.{number:02d}.precision_cholesky": mixture.precision_cholesky,
            }
            fitted = {name: getattr(mixture, name) for name in ("log_likelihood", "n_iter", "converged")}
            kept.append({"kind": asdict(partition.kind), "agreement": partition.agreement, "mixture": fitted})
        return arrays, {**self.description(), "partitions": kept}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Self:
        """The encoder that `state` describes."""
        pca = {name: JointPCA(arrays[f"pca.{name}.mean"], arrays[f"pca.{name}.axes"]) for name in GENE_SETS}
        partitions = []
        for number, kept in enumerate(metadata["partitions"]):
            name = f"partition.{number:02d}."
            mixture = TiedMixture(
                weights=arrays[name + "weights"],
                means=arrays[name + "means"],
                precision_cholesky=arrays[name + "precision_cholesky"],
                **kept["mixture"],
            )
            partitions.append(Partition(PartitionKind(**kept["kind"]), mixture, kept["agreement"]))
        return cls(pca, arrays["in_top_genes"], partitions, **constructor(metadata))


def surroundings(adjacency: sparse.csr_matrix, hops: int) -> sparse.csr_matrix:
    """Spots within ``hops`` steps of each spot, itself included: CSR float32 of ones ``[n_spots, n_spots]``."""
    step = adjacency.astype(np.float32) + sparse.identity(adjacency.shape[0], dtype=np.float32, format="csr")
    reached = sparse.identity(adjacency.shape[0], dtype=np.float32, format="csr")
    for _ in range(hops):
        reached = reached @ step
        reached.data[:] = 1.0
    return reached


def pairwise_agreement(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Adjusted Rand index of all pairs of partitions of the same points: float64 ``[n, n]``, ones on the diagonal.

    One matrix product gives all contingency tables; scikit-learn's function, pair by pair, takes 50 times as long.
    """
    sizes = [int(label.max()) + 1 for label in labels]
    ends = np.cumsum(sizes)
    members = np.hstack([np.eye(size)[label] for label, size in zip(labels, sizes, strict=True)])
    contingency = members.T @ members
    blocks = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    together = [float(_pairs(np.diag(contingency)[block]).sum()) for block in blocks]
    everything = _pairs(np.float64(len(members)))
    agreement = np.ones((len(labels), len(labels)))
    for i, first in enumerate(blocks):
        for j, second in enumerate(blocks[:i]):
            both = float(_pairs(contingency[first, second]).sum())
            chance, largest = together[i] * together[j] / everything, (together[i] + together[j]) / 2
            # Two partitions without any information, such as one cluster each, agree completely.
            value = 1.0 if largest == chance else (both - chance) / (largest - chance)
            agreement[i, j] = agreement[j, i] = value
    return agreement


def _pairs(count: np.ndarray | np.float64) -> Any:
    return count * (count - 1) / 2


def _joint_scores(
    sections: Sequence[Section],
    genes: np.ndarray,
    gene_sets: Mapping[str, np.ndarray],
    n_components: Mapping[str, int],
    seed: int,
) -> tuple[dict[str, JointPCA], dict[str, list[np.ndarray]]]:
    """PCA of each gene set, and its scores of each section."""
    z = [standardised(section, genes) for section in sections]
    pca = {
        name: JointPCA.fit(np.vstack([values[:, in_set] for values in z]), n_components[name], seed)
        for name, in_set in gene_sets.items()
    }
    present = {name: np.ones(in_set.sum(), dtype=bool) for name, in_set in gene_sets.items()}
    scores = {
        name: [pca[name].project(values[:, in_set], present[name]) for values in z]
        for name, in_set in gene_sets.items()
    }
    return pca, scores


def _fit_partitions(
    sections: Sequence[Section],
    scores: Mapping[str, list[np.ndarray]],
    params: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> list[Partition]:
    """All partitions, then the share of them that agrees most with the others, best first."""
    kinds = [
        PartitionKind(gene_set, steps, n_dims, k)
        for steps in params["smoothing"]
        for gene_set in GENE_SETS
        for n_dims in params[f"dims_{gene_set}"]
        for k in params["n_clusters"]
    ]
    views = {
        (name, steps): np.vstack(
            [smoothed(z, section.adjacency, steps) for z, section in zip(scores[name], sections, strict=True)]
        )
        for name in GENE_SETS
        for steps in params["smoothing"]
    }
    mixtures, labels = [], []
    for number, kind in enumerate(kinds):
        progress(0.35 + 0.6 * number / len(kinds), f"partition {number + 1} of {len(kinds)}")
        x = views[kind.gene_set, kind.smoothing][:, : kind.n_dims]
        mixtures.append(fit_tied_mixture(x, kind.n_clusters, seed=seed, n_init=params["n_init"]))
        labels.append(mixtures[-1].assign(x))
    agreement = pairwise_agreement(labels)
    mean_agreement = (agreement.sum(axis=1) - 1) / max(1, len(kinds) - 1)
    kept = np.argsort(-mean_agreement, kind="stable")[: int(np.ceil(params["kept_share"] * len(kinds)))]
    return [Partition(kinds[i], mixtures[i], float(mean_agreement[i])) for i in kept]


def _composition(
    partition: Partition, views: Mapping[tuple[str, int], np.ndarray], around: sparse.csr_matrix
) -> np.ndarray:
    """Square root of the share of each cluster around each spot, rows of norm 1: float32 ``[n_spots, k]``."""
    kind = partition.kind
    label = partition.mixture.assign(views[kind.gene_set, kind.smoothing][:, : kind.n_dims])
    count = around @ np.eye(kind.n_clusters, dtype=np.float32)[label]
    # Shares add up to 1, so their square roots have norm 1: sqrt and L2 in one step.
    return np.sqrt(count / count.sum(axis=1, keepdims=True)).astype(np.float32)
