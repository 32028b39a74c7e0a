"""The metrics against brute force: SciPy's Spearman, every order of tied targets, and the figures of real sections."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata, spearmanr

from science.spatial.bootstrap import block_weights, mean_interval, spatial_blocks
from science.spatial.metrics import METRICS, Score, metrics, niche_query, query_values, spearman
from science.spatial.rm_ideal import FactoredSimilarity

SLOW_TO_COMPILE = settings(deadline=None, max_examples=60)


@st.composite
def pairs(draw, max_targets=7):
    """A small pair with many ties: coarse embeddings, coarse similarities, niches shared by spots."""
    n_source, n_target = draw(st.integers(1, 5)), draw(st.integers(2, max_targets))
    n_niches = draw(st.integers(1, n_source)), draw(st.integers(1, n_target))
    d = draw(st.integers(1, 3))
    z = [
        draw(arrays(np.float32, (n, d), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))) for n in (n_source, n_target)
    ]
    for side in z:
        side[~side.any(axis=1)] = 1.0
    eighths = draw(arrays(np.int64, n_niches, elements=st.integers(0, 8)))
    niche = [
        draw(arrays(np.int32, n, elements=st.integers(0, m - 1)))
        for n, m in zip((n_source, n_target), n_niches, strict=True)
    ]
    layer = [draw(arrays("U1", n, elements=st.sampled_from(["a", "b"]))) for n in (n_source, n_target)]
    return *z, FactoredSimilarity((eighths / 8).astype(np.float32), *niche), *layer, draw(st.integers(1, n_target))


def scored(pair, block, n_bootstrap=0):
    """Scores of a drawn pair with its own k."""
    z_source, z_target, reference, source_layer, target_layer, k = pair
    return niche_query(z_source, z_target, reference, source_layer, target_layer, block, k=k, n_bootstrap=n_bootstrap)


def cosines(z_source, z_target):
    unit = [z.astype(float) / np.linalg.norm(z.astype(float), axis=1, keepdims=True) for z in (z_source, z_target)]
    return np.round(unit[0] @ unit[1].T, 9)


def constant(x):
    return np.ptp(x) == 0


def one_query(cosine, similarity, layer, target_layer, k):
    """All metrics of a query but B, as their definitions say; NaN where it does not count."""
    nan = float("nan")
    positive = similarity > 0
    tops = [
        order[:k]
        for order in itertools.permutations(range(len(cosine)))
        if all(cosine[a] >= cosine[b] for a, b in itertools.pairwise(order))
    ]
    relevant = (similarity >= np.sort(similarity)[-k]) & positive
    return {
        "A": nan if constant(cosine) or constant(similarity) else spearmanr(cosine, similarity).statistic,
        "A_positive": nan
        if positive.sum() < 3 or constant(cosine[positive]) or constant(similarity[positive])
        else spearmanr(cosine[positive], similarity[positive]).statistic,
        f"precision_at_{k}": np.mean([relevant[list(top)].mean() for top in tops]) if positive.any() else nan,
        f"same_label_at_{k}": np.mean([(target_layer[list(top)] == layer).mean() for top in tops]),
        "concentration": np.mean([similarity[list(top)].sum() for top in tops]) / similarity.sum()
        if positive.any()
        else nan,
    }


@given(pairs(max_targets=6))
@SLOW_TO_COMPILE
def test_every_query_value_is_what_its_definition_says(pair):
    z_source, z_target, reference, source_layer, target_layer, k = pair
    found = query_values(z_source, z_target, reference, source_layer, target_layer, k=k)
    cosine, similarity = cosines(z_source, z_target), reference.dense().astype(float)
    for q in range(len(z_source)):
        expected = one_query(cosine[q], similarity[q], source_layer[q], target_layer, k)
        assert {name: found[name][q] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(pairs())
@SLOW_TO_COMPILE
def test_a_score_is_the_mean_over_the_queries_that_count_and_n_counts_them(pair):
    z_source, z_target, reference, source_layer, target_layer, k = pair
    values = query_values(z_source, z_target, reference, source_layer, target_layer, k=k)
    scores = scored(pair, np.zeros(len(z_source), int))
    for score in scores:
        if score.metric != "B":
            kept = values[score.metric][(source_layer == score.layer) | (score.layer == "all")]
            kept = kept[~np.isnan(kept)]
            assert score.n == len(kept)
            assert score.value == (pytest.approx(kept.mean()) if len(kept) else None)
    assert [(s.layer, s.metric) for s in scores] == [
        (layer, metric) for layer in [*np.unique(source_layer), "all"] for metric in metrics(k)
    ]


@given(pairs())
@SLOW_TO_COMPILE
def test_b_is_the_spearman_of_the_layers_centroid_and_mean_similarity(pair):
    z_source, z_target, reference, source_layer, _, _ = pair
    scores = scored(pair, np.arange(len(z_source)), n_bootstrap=3)
    found = {score.layer: score for score in scores if score.metric == "B"}
    weighted = []
    for layer in np.unique(source_layer):
        members = source_layer == layer
        centroid, mean = z_source[members].astype(float).mean(axis=0), reference.dense()[members].mean(axis=0)
        cosine = cosines(centroid[None], z_target)[0] if centroid.any() else np.zeros(len(z_target))
        mean = np.round(mean.astype(float), 6)
        if constant(cosine) or constant(mean):
            assert (found[layer].value, found[layer].n) == (None, 0)
        else:
            assert found[layer].n == members.sum()
            assert found[layer].value == pytest.approx(spearmanr(cosine, mean).statistic, abs=1e-9)
            weighted += [float(found[layer].value or 0.0)] * int(members.sum())
    assert found["all"].value == (pytest.approx(np.mean(weighted)) if weighted else None)
    assert found["all"].n == len(weighted)


@given(pairs())
@SLOW_TO_COMPILE
def test_scores_stay_in_their_range_and_are_never_nan(pair):
    for score in scored(pair, np.arange(len(pair[0])), n_bootstrap=20):
        metric = metrics(pair[5])[score.metric]
        assert (score.value is None) == (score.n == 0)
        for value in (score.value, score.ci_low, score.ci_high):
            assert value is None or metric.low - 1e-12 <= value <= metric.high + 1e-12
        assert (score.ci_low is None) == (score.ci_high is None)


@given(pairs(), st.randoms(use_true_random=False))
@SLOW_TO_COMPILE
def test_the_order_of_the_targets_changes_nothing(pair, random):
    z_source, z_target, reference, source_layer, target_layer, k = pair
    order = np.array(random.sample(range(len(z_target)), len(z_target)))
    shuffled = FactoredSimilarity(reference.similarity, reference.source_niche, reference.target_niche[order])
    before = query_values(z_source, z_target, reference, source_layer, target_layer, k=k)
    after = query_values(z_source, z_target[order], shuffled, source_layer, target_layer[order], k=k)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=1e-12)


@given(pairs())
@SLOW_TO_COMPILE
def test_a_rank_metric_sees_only_the_order_of_the_similarities_and_the_direction_of_the_embedding(pair):
    z_source, z_target, reference, source_layer, target_layer, k = pair
    squared = FactoredSimilarity(reference.similarity**2, reference.source_niche, reference.target_niche)
    before = query_values(z_source, z_target, reference, source_layer, target_layer, k=k)
    after = query_values(3.7 * z_source, 0.013 * z_target, squared, source_layer, target_layer, k=k)
    for name in set(before) - {"concentration"}:
        np.testing.assert_allclose(after[name], before[name], atol=1e-12)


def test_spearman_equals_scipy_with_and_without_ties():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal(200), generator.integers(0, 4, 200)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(a, np.ones(200)) is None


def test_rounding_noise_does_not_split_ties():
    similarity = np.array([[0.1 + 0.2, 0.3, 0.7, 0.0]], np.float32) + np.array([[3e-8, 0, 0, 0]], np.float32)
    exact = np.array([[0.3, 0.3, 0.7, 0.0]], np.float32)
    z = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]])
    query, layer = np.array([[0.0, 1.0]]), np.array(["a"] * 4)
    found = [
        query_values(
            query, z, FactoredSimilarity(s, np.zeros(1, np.int32), np.arange(4, dtype=np.int32)), layer[:1], layer, k=2
        )
        for s in (similarity, exact)
    ]
    assert {name: values[0] for name, values in found[0].items()} == pytest.approx(
        {name: values[0] for name, values in found[1].items()}
    )


def test_an_embedding_that_ranks_like_rm_ideal_scores_one():
    angle = np.linspace(0.0, 1.0, 60)
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    similarity = np.cos(angle[:, None] - angle[None]).astype(np.float64)
    each, layer = np.arange(60, dtype=np.int32), np.array(["a"] * 60)
    values = query_values(z, z, FactoredSimilarity(similarity, each, each), layer, layer, k=10)
    assert values["A"] == pytest.approx(1.0)
    assert values["precision_at_10"] == pytest.approx(1.0)


def test_fast_values_equal_plain_numpy_at_a_realistic_size():
    generator = np.random.default_rng(1)
    z_source, z_target = generator.standard_normal((40, 20)), generator.standard_normal((900, 20))
    similarity = np.round(np.clip(generator.standard_normal((12, 300)), 0, 2) / 2, 2)
    reference = FactoredSimilarity(
        similarity, np.arange(40, dtype=np.int32) % 12, generator.integers(0, 300, 900).astype(np.int32)
    )
    layer = np.array(["a"] * 900)
    found = query_values(z_source, z_target, reference, layer[:40], layer)
    cosine, dense = cosines(z_source, z_target), reference.dense()
    expected = [np.corrcoef(rankdata(c), rankdata(s))[0, 1] for c, s in zip(cosine, dense, strict=True)]
    np.testing.assert_allclose(found["A"], expected, atol=1e-9)
    top = np.argsort(-cosine, axis=1)[:, :50]
    mass = np.take_along_axis(dense, top, axis=1).sum(axis=1) / dense.sum(axis=1)
    np.testing.assert_allclose(found["concentration"], mass, atol=1e-9)


def small_pair(n=30):
    generator = np.random.default_rng(2)
    z, each = generator.standard_normal((n, 4)), np.arange(n, dtype=np.int32)
    layer = np.where(each < n // 2, "a", "b")
    return z, z[::-1].copy(), FactoredSimilarity(generator.random((n, n)), each, each), layer, layer, each % 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.zeros((30, 4))}, "30 rows of the source embedding are zero or not finite"),
        ({1: np.full((30, 4), np.nan)}, "target embedding are zero or not finite"),
        ({0: np.ones((29, 4))}, "join them by barcode"),
        ({1: np.ones((30, 5))}, "both from one encoder"),
        ({1: np.ones(30)}, r"expected \[n_spots, d\]"),
        ({3: np.array([""] * 30)}, "30 source spots have no layer"),
        ({4: np.array(["all"] * 30)}, "rename the layer"),
        ({5: np.zeros(3)}, "expected one per spot"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = [change.get(i, argument) for i, argument in enumerate(small_pair())]
    with pytest.raises(ValueError, match=message):
        niche_query(*arguments, k=5)


@pytest.mark.parametrize("k", [0, 31])
def test_a_k_beyond_the_targets_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k} with 30 target spots"):
        niche_query(*small_pair(), k=k)


def test_a_layer_whose_queries_resemble_nothing_has_no_value_but_a_row():
    z, z_target, reference, layer, target_layer, block = small_pair()
    similarity = reference.similarity.copy()
    similarity[:15] = 0.0
    nothing = FactoredSimilarity(similarity, reference.source_niche, reference.target_niche)
    rows = {(s.layer, s.metric): s for s in niche_query(z, z_target, nothing, layer, target_layer, block, k=5)}
    for metric in ("A", "A_positive", "B", "precision_at_5", "concentration"):
        assert rows["a", metric] == Score("a", metric, None, 0, None, None)
    assert rows["a", "same_label_at_5"].n == 15
    assert rows["all", "A"].n == rows["b", "A"].n == 15


def test_equal_seeds_give_equal_intervals_and_another_seed_others():
    first, again, other = (niche_query(*small_pair(), k=5, n_bootstrap=200, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [s.value for s in first] == [s.value for s in other]
    assert [s.ci_low for s in first] != [s.ci_low for s in other]
    assert all(s.ci_low is not None and s.ci_high is not None and s.ci_low <= s.ci_high for s in first)


def test_one_block_has_no_interval():
    scores = scored((*small_pair()[:5], 5), np.zeros(30, int), n_bootstrap=20)
    assert all(score.value is not None and score.ci_low is None and score.ci_high is None for score in scores)


def test_a_weighted_draw_is_the_mean_over_the_drawn_blocks():
    values, block = np.array([1.0, 2.0, 6.0, 10.0]), np.array([0, 0, 1, 2])
    weights = block_weights(3, 50, seed=0)
    replicates = [np.repeat(values, row[block].astype(int)).mean() for row in weights]
    assert mean_interval(values, block, weights) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])))
    assert np.all(weights.sum(axis=1) == 3)


def test_the_interval_covers_when_spots_of_a_block_are_alike():
    """200 sections of 40 blocks of 25 equal spots: blocks must cover near 95 %, single spots would cover far less."""
    generator = np.random.default_rng(0)
    block, alone = np.repeat(np.arange(40), 25), np.arange(1000)
    covered = np.zeros(2)
    for seed in range(200):
        values = np.repeat(generator.standard_normal(40), 25)
        for i, unit in enumerate((block, alone)):
            interval = mean_interval(values, unit, block_weights(int(unit.max()) + 1, 200, seed))
            assert interval is not None
            covered[i] += interval[0] <= 0.0 <= interval[1]
    assert 0.88 <= covered[0] / 200 <= 0.99
    assert covered[1] / 200 < 0.5


def test_blocks_are_tiles_of_about_eight_by_eight_spots():
    row, col = np.divmod(np.arange(32 * 32), 32)
    block = spatial_blocks(row, 2 * col + row % 2)
    assert np.array_equal(np.bincount(block), np.full(16, 64))
    assert np.ptp(row[block == 5]) == 7
    with pytest.raises(ValueError, match="block size is 0"):
        spatial_blocks(row, col, size=0)
    with pytest.raises(ValueError, match="one position per spot"):
        spatial_blocks(row, col[:-1])


def test_the_registry_names_every_metric_with_direction_and_range():
    assert list(METRICS) == ["A", "A_positive", "B", "precision_at_50", "same_label_at_50", "concentration"]
    assert "precision_at_10" in metrics(10)
    assert all(metric.higher_is_better and metric.low < metric.high and metric.meaning for metric in METRICS.values())
