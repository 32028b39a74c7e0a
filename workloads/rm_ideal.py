"""Computes RM-IDEAL of one directed pair, and holds a sample of it against optimal transport."""

from __future__ import annotations

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from science.spatial.labelled_graph import LabelledGraph, labelled_graphs
from science.spatial.niches import niche_histograms
from science.spatial.rm_ideal import FactoredSimilarity, niche_similarity
from science.spatial.section import Section
from science.spatial.wwl_oracle import wwl_similarity
from workloads.job import Job, open_job
from workloads.spatial_inputs import section_of

_TOLERANCE = 1e-6  # the similarity is kept in float32


def main() -> None:
    """Run the job."""
    with open_job() as job:
        source = section_of(job, job.input("section").frame())
        target = section_of(job, job.input("section_as_target").frame())
        hops, iterations = job.params["hops"], job.params["iterations"]
        source_graph, target_graph, source_spots, target_spots = labelled_graphs(source, target)
        job.progress(0.1, f"{source_graph.n_spots} x {target_graph.n_spots} labelled spots")
        similarity = _similarity(source_graph, target_graph, hops, iterations, job.params["max_similarity_gb"])
        job.progress(0.6, f"{' x '.join(map(str, similarity.similarity.shape))} distinct niches")
        largest = _largest_difference(
            similarity, source_graph, target_graph, hops, iterations, n_pairs=job.params["oracle_pairs"]
        )
        _check(job, similarity, largest)
        path = job.directory / "similarity.safetensors"
        save_file({"similarity": np.ascontiguousarray(similarity.similarity)}, path)
        artifact = job.keep(path)
        sides = [
            _side(source, source_spots, similarity.source_niche, "source"),
            _side(target, target_spots, similarity.target_niche, "target"),
        ]
        frame = pl.concat(sides).with_columns(
            source=pl.lit(source.key),
            target=pl.lit(target.key),
            similarity_artifact=pl.lit(artifact),
            hops=pl.lit(hops, pl.Int64),
            iterations=pl.lit(iterations, pl.Int64),
            cache_key=pl.lit(job.params["cache_key"]),
            source_version=pl.lit(job.input("section").data_version),
            target_version=pl.lit(job.input("section_as_target").data_version),
        )
        job.publish(
            frame,
            {
                "pairs": source_graph.n_spots * target_graph.n_spots,
                "distinct_niches": " x ".join(map(str, similarity.similarity.shape)),
                "share_of_zero_similarity": _share_of_zeros(similarity),
                "hops": hops,
                "iterations": iterations,
            },
        )


def _check(job: Job, similarity: FactoredSimilarity, largest_difference: float) -> None:
    """Report both checks, and let nothing that fails one be published."""
    low, high = float(similarity.similarity.min()), float(similarity.similarity.max())
    agrees, bounded = largest_difference <= _TOLERANCE, low >= 0.0 and high <= 1.0 + _TOLERANCE
    figures = {"largest_difference": largest_difference, "tolerance": _TOLERANCE, "pairs": job.params["oracle_pairs"]}
    job.check("agrees_with_pot", agrees, figures)
    job.check("in_unit_interval", bounded, {"lowest": low, "highest": high})
    if not (agrees and bounded):
        raise ArithmeticError(
            f"RM-IDEAL differs from optimal transport by {largest_difference:.3g} (expected at most {_TOLERANCE:g}) or "
            f"leaves [0, 1] ({low:.6g} to {high:.6g}): a fault of the code or its compiled cache. Nothing was published"
        )


class PairTooLarge(ValueError):
    """Two sections with too many distinct niches to keep all similarities."""


def _similarity(
    source: LabelledGraph, target: LabelledGraph, hops: int, iterations: int, limit_gb: float
) -> FactoredSimilarity:
    """`science.spatial.rm_ideal.rm_ideal`, refused before it would fill the memory."""
    target_niches = niche_histograms(target, hops=hops, iterations=iterations)
    source_niches = niche_histograms(source, hops=hops, iterations=iterations, labels_of=target_niches)
    size_gb = source_niches.n_niches * target_niches.n_niches * np.dtype(np.float32).itemsize / 1e9
    if size_gb > limit_gb:
        raise PairTooLarge(
            f"{source_niches.n_niches} x {target_niches.n_niches} niches differ: {size_gb:.1f} GB, expected at most "
            f"max_similarity_gb = {limit_gb:g}; raise it if the node has the memory, or lower hops or iterations. "
            "The best targets of chosen queries come from science.spatial.top_k without this matrix"
        )
    return FactoredSimilarity(niche_similarity(source_niches, target_niches), source_niches.niche, target_niches.niche)


def _side(section: Section, spots: np.ndarray, niche: np.ndarray, side: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "side": [side] * len(spots),
            "barcode": section.barcodes[spots].tolist(),
            "layer": section.layer[spots].tolist(),
            "niche": niche.astype(np.int64),
        }
    )


def _largest_difference(
    similarity: FactoredSimilarity,
    source: LabelledGraph,
    target: LabelledGraph,
    hops: int,
    iterations: int,
    *,
    n_pairs: int,
) -> float:
    """Largest difference to POT over a fixed sample, half of it from pairs that share something: the others are 0."""
    generator = np.random.default_rng(0)
    rows = generator.integers(source.n_spots, size=n_pairs)
    columns = generator.integers(target.n_spots, size=n_pairs)
    for index in range(n_pairs // 2):
        sharing = np.flatnonzero(similarity.rows(rows[index : index + 1])[0] > 0)
        if len(sharing):
            columns[index] = generator.choice(sharing)
    differences = [
        abs(
            float(similarity.rows(np.array([i]))[0, j])
            - wwl_similarity(source, int(i), target, int(j), hops=hops, iterations=iterations)
        )
        for i, j in zip(rows, columns, strict=True)
    ]
    return max(differences)


def _share_of_zeros(similarity: FactoredSimilarity) -> float:
    rows = np.bincount(similarity.source_niche, minlength=similarity.similarity.shape[0])
    columns = np.bincount(similarity.target_niche, minlength=similarity.similarity.shape[1])
    zero = float(rows @ (similarity.similarity == 0) @ columns)
    return zero / float(rows.sum() * columns.sum())


if __name__ == "__main__":
    main()
