"""Simulated cortex: never taken for tissue, and hard in the way in which real sections are hard."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import rankdata
from section_files import assert_equal_sections, h5ad, small_section, space_ranger_folder

from science.spatial.load import load_section
from science.spatial.rm_ideal import labelled_graphs, rm_ideal
from science.spatial.section import CORTEX_LAYERS, Section, read_section, write_section
from science.spatial.simulate import layer_programmes, simulate_cortex


@pytest.fixture(scope="module")
def pair() -> tuple[Section, Section]:
    return simulate_cortex("left", seed=11), simulate_cortex("right", seed=12)


def smoothed(section: Section, z: np.ndarray, times: int) -> np.ndarray:
    around = section.adjacency.astype(float) + sparse.identity(section.n_spots)
    mean = sparse.diags(1 / np.asarray(around.sum(axis=1)).ravel()) @ around
    for _ in range(times):
        z = mean @ z
    return z


def metric_a(z_source: np.ndarray, z_target: np.ndarray, similarity: np.ndarray) -> float:
    """Mean over query spots of Spearman between cosine and RM-IDEAL; written apart from the platform's metrics."""
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z_source, z_target)]
    ranks = [rankdata(values, axis=1) for values in (unit[0] @ unit[1].T, similarity)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    return float(np.mean((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))))


def test_a_seed_gives_one_section_and_another_seed_another():
    again = simulate_cortex("151673", seed=1, n_rows=14, n_cols=10, n_genes=60)
    assert_equal_sections(small_section(), again)
    other = simulate_cortex("151673", seed=2, n_rows=14, n_cols=10, n_genes=60)
    assert other.n_spots != again.n_spots or (other.counts != again.counts).nnz > 0


def test_the_simulated_mark_survives_every_way_of_storing_a_section(tmp_path):
    folder, _ = space_ranger_folder(tmp_path / "sr")
    assert load_section(folder, "a").simulated
    assert load_section(h5ad(tmp_path / "a.h5ad"), "a").simulated
    write_section(small_section(), tmp_path / "canonical.h5ad")
    assert read_section(tmp_path / "canonical.h5ad").simulated
    assert load_section(tmp_path / "canonical.h5ad", "151673").simulated
    real = dataclasses.replace(small_section(), simulated=False)
    write_section(real, tmp_path / "real.h5ad")
    assert not read_section(tmp_path / "real.h5ad").simulated


def test_the_default_section_is_about_as_large_as_promised(pair):
    for section in pair:
        assert 1050 < section.n_spots < 1280 and section.n_genes == 600
        assert section.genes[0] == "SIM0001" and section.genes[-1] == "SIM0600"
        assert set(section.layer[section.labelled]) == set(CORTEX_LAYERS)
        assert 0 < (~section.labelled).mean() < 0.03
        assert section.image is not None and section.image.dtype == np.uint8 and section.image.ndim == 3
        assert section.counts.dtype == np.int32 and section.counts.has_canonical_format


def test_layers_lie_in_order_as_curved_bands(pair):
    for section in pair:
        depth = [section.array_row[section.layer == layer].mean() for layer in CORTEX_LAYERS]
        assert all(upper < lower for upper, lower in pairwise(depth))
        rows = section.array_row[section.layer == "Layer4"]
        assert np.ptp(rows) > 4  # a straight band of that thickness spans three rows or four
        assert (section.adjacency.sum(axis=1) > 0).all()


def test_sections_share_genes_places_and_programmes_but_not_numbers(pair):
    left, right = pair
    assert (left.genes == right.genes).all()
    places = [dict(zip(zip(s.array_row, s.array_col, strict=True), s.barcodes, strict=True)) for s in pair]
    both = places[0].keys() & places[1].keys()
    assert len(both) > 1000 and all(places[0][place] == places[1][place] for place in both)

    def contrast(section: Section) -> np.ndarray:
        share = np.asarray(section.counts.multiply(1 / section.sum_umi[:, None]).todense())
        return np.log(
            (share[section.layer == "WM"].mean(axis=0) + 1e-5) / (share[section.layer == "Layer3"].mean(axis=0) + 1e-5)
        )

    assert np.corrcoef(contrast(left), contrast(right))[0, 1] > 0.7
    assert (layer_programmes(600).layer == layer_programmes(600).layer).all()


def test_counts_are_overdispersed_and_depth_varies_smoothly(pair):
    left = pair[0]
    depth = np.log(left.sum_umi)
    neighbours = left.adjacency @ depth / np.asarray(left.adjacency.sum(axis=1)).ravel()
    assert np.corrcoef(depth, neighbours)[0, 1] > 0.2 and 0.25 < depth.std() < 0.8
    counts = left.counts.toarray()[left.layer == "Layer5"]
    strong = counts.mean(axis=0) > 5
    assert np.median(counts[:, strong].var(axis=0) / counts[:, strong].mean(axis=0)) > 1.5


def test_smoothing_helps_a_joint_embedding_and_neither_is_perfect(pair):
    """As on the real sections, where metric A is .45 for joint PCA and .62 after smoothing."""
    from sklearn.decomposition import PCA

    log = [np.log1p(s.counts.multiply(1e4 / s.sum_umi[:, None]).toarray()) for s in pair]
    scaled = np.vstack([(x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9) for x in log])
    joint = PCA(30, random_state=0).fit_transform(scaled)
    plain = [joint[: pair[0].n_spots], joint[pair[0].n_spots :]]
    source, target, *spots = labelled_graphs(*pair)
    similarity = rm_ideal(source, target).dense()
    scores = {}
    for name, times in (("pca", 0), ("pca_smooth", 4)):
        z = [smoothed(section, x, times)[kept] for section, x, kept in zip(pair, plain, spots, strict=True)]
        scores[name] = metric_a(z[0], z[1], similarity)
    assert 0.25 < scores["pca"] < scores["pca_smooth"] - 0.1 and scores["pca_smooth"] < 0.85, scores


def test_a_section_too_small_for_seven_layers_is_refused():
    with pytest.raises(ValueError, match="n_rows=5"):
        simulate_cortex("a", seed=1, n_rows=5)
