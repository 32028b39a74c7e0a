"""How well an embedding finds the niches that RM-IDEAL calls similar, for one direction source -> target.

Queries are labelled spots of the source, answers are labelled spots of the target, ordered by cosine similarity. Six
metrics per layer of the query, each with its n and a block-bootstrap interval (`bootstrap.py`). The embeddings are
validated before they come here; the reference comes from `rm_ideal.py`; controls to print beside it from `controls.py`.

Ties matter: 60 % of RM-IDEAL is exactly 0 and 80 % of queries tie at rank 50. Spearman takes average ranks, everything
about the first K takes the exact expectation over random orders of tied targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from science.spatial.bootstrap import block_weights, mean_interval, percentile_interval
from science.spatial.ranking import COSINE_TIE, SIMILARITY_TIE, CosineOrder, correlate_rows, score_queries

if TYPE_CHECKING:
    from science.spatial.rm_ideal import FactoredSimilarity

ALL_LAYERS = "all"
_PAIRS_PER_BLOCK = 1 << 20
Summary: TypeAlias = tuple[float | None, int, float | None, float | None]  # value, n, ci_low, ci_high


@dataclass(frozen=True)
class Metric:
    """What a metric means and how to read it."""

    name: str
    higher_is_better: bool
    low: float
    high: float
    meaning: str


def metrics(k: int = 50) -> dict[str, Metric]:
    """Metrics by name; the names of those about the first ``k`` targets carry ``k``."""
    rows = [
        ("A", -1.0, "mean over query spots of the Spearman correlation, over all targets, of cosine and RM-IDEAL"),
        ("A_positive", -1.0, "A over only those targets whose RM-IDEAL similarity to the query is above 0"),
        ("B", -1.0, "one Spearman correlation of cosine to the layer's centroid and the layer's mean RM-IDEAL"),
        (f"precision_at_{k}", 0.0, f"share of the first {k} targets that are among the {k} (and ties) of RM-IDEAL"),
        (f"same_label_at_{k}", 0.0, f"share of the first {k} targets that carry the query's layer"),
        ("concentration", 0.0, f"share of the query's RM-IDEAL mass that lies in the first {k} targets"),
    ]
    return {name: Metric(name, True, low, 1.0, meaning) for name, low, meaning in rows}


METRICS = metrics()


@dataclass(frozen=True)
class Score:
    """One metric of one layer. ``value`` is None and ``n`` 0 where no query counts; no interval: both ends None."""

    layer: str
    metric: str
    value: float | None
    n: int
    ci_low: float | None
    ci_high: float | None


def niche_query(
    z_source: np.ndarray,
    z_target: np.ndarray,
    reference: FactoredSimilarity,
    source_layer: np.ndarray,
    target_layer: np.ndarray,
    source_block: np.ndarray,
    *,
    k: int = 50,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Score one embedding in one direction; every metric for every layer of the source and for ``all``.

    Parameters
    ----------
    z_source, z_target : float ``[n_source, d]``, ``[n_target, d]``, embeddings of the labelled spots, in the order of
        the labelled graphs that the reference was computed on; both by the same encoder.
    reference : RM-IDEAL of the pair.
    source_layer, target_layer : str ``[n_source]``, ``[n_target]``.
    source_block : int ``[n_source]``, spatial block of each query spot (`bootstrap.spatial_blocks`).
    k : how many targets count as retrieved.
    n_bootstrap, seed : replicates and seed of the intervals; 0 replicates give no intervals.

    Returns
    -------
    Layers sorted by name, then ``all``; per layer the metrics in the order of `metrics`. ``all`` is over all query
    spots; B, which has one value per layer, is there the mean over layers weighted by their query spots.

    Raises
    ------
    ValueError : shapes that do not fit each other, a spot without a label, ``k`` above the number of targets, or an
        embedding with a row that is zero or not finite.
    """
    layer = np.asarray(source_layer)
    values = query_values(z_source, z_target, reference, layer, target_layer, k=k)
    if np.shape(source_block) != layer.shape:
        raise ValueError(
            f"source_block has shape {np.shape(source_block)} for {len(layer)} source spots; expected one per spot"
        )
    blocks, block = np.unique(source_block, return_inverse=True)
    weights = block_weights(len(blocks), n_bootstrap, seed)
    members = {str(name): np.flatnonzero(layer == name) for name in np.unique(layer)}
    cosine_order = CosineOrder(_unit_rows(z_target, "target"))
    centroids = {
        name: _centroid_score(np.asarray(z_source, np.float64), cosine_order, reference, spots, block, weights)
        for name, spots in members.items()
    }
    scores = []
    for name, spots in [*members.items(), (ALL_LAYERS, np.arange(len(layer)))]:
        for metric in metrics(k):
            if metric != "B":
                scores.append(Score(name, metric, *_mean_score(values[metric][spots], block[spots], weights)))
            elif name == ALL_LAYERS:
                scores.append(Score(name, metric, *_weighted_mean(list(centroids.values()), block)))
            else:
                scores.append(Score(name, metric, *centroids[name].summary()))
    return scores


def query_values(
    z_source: np.ndarray,
    z_target: np.ndarray,
    reference: FactoredSimilarity,
    source_layer: np.ndarray,
    target_layer: np.ndarray,
    *,
    k: int = 50,
) -> dict[str, np.ndarray]:
    """Every metric but B for each query spot: name -> float64 ``[n_source]``, NaN where the query does not count.

    A query does not count in A when its cosines or its similarities are all equal, in A_positive also with fewer than 3
    positive targets, in precision and concentration when all its similarities are 0. Parameters as in `niche_query`.
    """
    _check_shapes(z_source, z_target, reference, source_layer, target_layer, k)
    unit_source, cosine_order = _unit_rows(z_source, "source"), CosineOrder(_unit_rows(z_target, "target"))
    codes = np.unique(np.concatenate([source_layer, target_layer]), return_inverse=True)[1].astype(np.int32)
    source_code, target_code = codes[: len(unit_source)], codes[len(unit_source) :]
    target_niche, niche_size = np.asarray(reference.target_niche, np.int32), _niche_size(reference)
    found = np.empty((len(unit_source), 5))
    for queries in _query_blocks(reference.source_niche, len(z_target)):
        niches, niche_of_query = np.unique(reference.source_niche[queries], return_inverse=True)
        similarity = reference.similarity[niches].astype(np.float64)
        found[queries] = score_queries(
            *cosine_order(unit_source[queries]),
            similarity,
            np.argsort(similarity, axis=1),
            niche_of_query,
            target_niche,
            niche_size,
            source_code[queries],
            target_code,
            k,
        )
    names = [name for name in metrics(k) if name != "B"]
    return {name: found[:, column].copy() for column, name in enumerate(names)}


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman correlation of two vectors with average ranks for ties; None where either is constant."""
    a, b = np.array(a, np.float64, ndmin=2), np.array(b, np.float64, ndmin=2)
    if a.shape != b.shape:
        raise ValueError(f"vectors of lengths {a.shape[1]} and {b.shape[1]}; expected equal lengths")
    each = np.arange(a.shape[1], dtype=np.int32)
    rho = correlate_rows(a, np.argsort(a), b, np.argsort(b), each, np.ones(len(each)), COSINE_TIE, SIMILARITY_TIE)[0]
    return None if np.isnan(rho) else float(rho)


def _check_shapes(z_source, z_target, reference, source_layer, target_layer, k: int) -> None:
    for side, z, layer, niche, n_niches in (
        ("source", z_source, source_layer, reference.source_niche, reference.similarity.shape[0]),
        ("target", z_target, target_layer, reference.target_niche, reference.similarity.shape[1]),
    ):
        if np.ndim(z) != 2 or not len(z):
            raise ValueError(f"the {side} embedding has shape {np.shape(z)}; expected [n_spots, d], at least one spot")
        if not len(z) == len(layer) == len(niche):
            raise ValueError(
                f"the {side} has {len(z)} embedding rows, {len(layer)} layers and {len(niche)} spots in the reference; "
                "expected the labelled spots of one section in one order: join them by barcode"
            )
        if np.min(niche) < 0 or np.max(niche) >= n_niches:
            raise ValueError(
                f"{side} niches run from {np.min(niche)} to {np.max(niche)} but the reference has {n_niches}; expected "
                f"0 to {n_niches - 1}: compute the reference again"
            )
        unnamed = int(np.sum(np.asarray(layer) == ""))
        if unnamed:
            raise ValueError(f"{unnamed} {side} spots have no layer; expected labelled spots only: leave them out")
        if np.any(np.asarray(layer) == ALL_LAYERS):
            raise ValueError(f"a {side} layer is called {ALL_LAYERS!r}, the name of the summary row; rename the layer")
    if np.shape(z_source)[1] != np.shape(z_target)[1]:
        raise ValueError(
            f"the source embedding has {np.shape(z_source)[1]} dimensions, the target {np.shape(z_target)[1]}; "
            "expected both from one encoder"
        )
    if not np.isfinite(reference.similarity).all():
        raise ValueError("the reference holds a similarity that is not finite; expected 0 to 1: compute it again")
    if not 1 <= k <= len(z_target):
        raise ValueError(
            f"k is {k} with {len(z_target)} target spots; expected 1 to {len(z_target)}: choose a smaller k"
        )


def _unit_rows(z: np.ndarray, side: str) -> np.ndarray:
    rows = np.asarray(z, np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    undefined = ~np.isfinite(norm[:, 0]) | (norm[:, 0] == 0)
    if undefined.any():
        raise ValueError(
            f"{int(undefined.sum())} rows of the {side} embedding are zero or not finite (first: row "
            f"{int(np.argmax(undefined))}), so their cosine is undefined; expected a validated embedding"
        )
    return rows / norm


def _niche_size(reference: FactoredSimilarity) -> np.ndarray:
    """How many target spots have each distinct target niche."""
    return np.bincount(reference.target_niche, minlength=reference.similarity.shape[1]).astype(np.float64)


def _query_blocks(source_niche: np.ndarray, n_targets: int) -> Iterator[np.ndarray]:
    """Queries of equal niche stand together, so that a niche is ranked once; a block bounds the memory."""
    queries = np.argsort(source_niche, kind="stable")
    step = max(1, _PAIRS_PER_BLOCK // n_targets)
    for start in range(0, len(queries), step):
        yield queries[start : start + step]


def _mean_score(values: np.ndarray, block: np.ndarray, weights: np.ndarray) -> Summary:
    counts = ~np.isnan(values)
    if not counts.any():
        return None, 0, None, None
    interval = mean_interval(values[counts], block[counts], weights)
    return float(values[counts].mean()), int(counts.sum()), *(interval or (None, None))


@dataclass(frozen=True)
class _CentroidScore:
    """Metric B of one layer: row 0 over its spots as they are, the other rows over the draws of the bootstrap."""

    rho: np.ndarray
    n_spots: np.ndarray
    block: np.ndarray

    def summary(self) -> Summary:
        if np.isnan(self.rho[0]):
            return None, 0, None, None
        interval = percentile_interval(self.rho[1:], self.block)
        return float(self.rho[0]), int(self.n_spots[0]), *(interval or (None, None))


def _weighted_mean(layers: list[_CentroidScore], block: np.ndarray) -> Summary:
    """Metric B of all layers; a layer without a value (in a draw) has no weight (there)."""
    rho, n_spots = np.stack([layer.rho for layer in layers]), np.stack([layer.n_spots for layer in layers])
    n_spots = np.where(np.isnan(rho), 0.0, n_spots)
    total = n_spots.sum(axis=0)
    mean = np.divide(
        (np.nan_to_num(rho) * n_spots).sum(axis=0), total, out=np.full_like(total, np.nan), where=total > 0
    )
    return _CentroidScore(mean, total, block).summary()


def _centroid_score(
    z: np.ndarray,
    cosine_order: CosineOrder,
    reference: FactoredSimilarity,
    spots: np.ndarray,
    block: np.ndarray,
    weights,
) -> _CentroidScore:
    """Metric B of the layer with these ``spots`` of the source, from sums over blocks that each draw weighs."""
    n_blocks, similarity = weights.shape[1], reference.similarity.astype(np.float64)
    target_niche, niche_size = np.asarray(reference.target_niche, np.int32), _niche_size(reference)
    z, block = z[spots], block[spots]
    z_sum, niche_count = np.zeros((n_blocks, z.shape[1])), np.zeros((n_blocks, len(similarity)))
    np.add.at(z_sum, block, z)
    np.add.at(niche_count, (block, reference.source_niche[spots]), 1.0)
    similarity_sum = niche_count @ similarity
    weights = np.vstack([np.ones(n_blocks), weights])
    n_spots = weights @ np.bincount(block, minlength=n_blocks)
    rho = np.full(len(weights), np.nan)
    drawn = np.flatnonzero(n_spots)
    step = max(1, _PAIRS_PER_BLOCK // len(target_niche))
    for rows in (drawn[i : i + step] for i in range(0, len(drawn), step)):
        centroid = weights[rows] @ z_sum
        norm = np.linalg.norm(centroid, axis=1, keepdims=True)
        # A centroid of zero (but for rounding) has no direction: its cosines become 0, a constant without Spearman.
        directed = norm > COSINE_TIE * np.abs(z).max() * n_spots[rows, None]
        cosine, order = cosine_order(np.where(directed, centroid / np.where(directed, norm, 1.0), 0.0))
        mean = (weights[rows] @ similarity_sum) / n_spots[rows, None]
        mean_order = np.argsort(mean, axis=1)
        rho[rows] = correlate_rows(cosine, order, mean, mean_order, target_niche, niche_size, COSINE_TIE, COSINE_TIE)
    return _CentroidScore(rho, n_spots, block)
