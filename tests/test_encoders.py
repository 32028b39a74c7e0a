"""Encoders: fitted on a cohort, applied to any section on the genes it has, kept in a file that gives them back."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from science.spatial.encoders import (
    Encoder,
    EncoderError,
    GeneShareError,
    encoder_metadata,
    load_encoder,
    resolve,
    save_encoder,
)
from science.spatial.encoders.base import BUILT_IN, check_params
from science.spatial.encoders.partition_bank import pairwise_agreement, surroundings
from science.spatial.encoders.preprocess import highly_variable, log_normalised, shared_genes, smoothed, standardised
from science.spatial.encoders.tied_mixture import _expectation_maximisation, fit_tied_mixture
from science.spatial.load import load_section
from science.spatial.metrics import query_values
from science.spatial.rm_ideal import labelled_graphs, rm_ideal
from science.spatial.section import Section
from science.spatial.validation import validate_embedding

SMALL: dict[str, dict[str, Any]] = {
    "pca": {"n_components": 8, "n_top_genes": 60},
    "pca_smooth": {"n_components": 8, "n_top_genes": 60},
    "partition_bank": {"dims_all": (6, 8), "dims_hvg": (5,), "n_clusters": (3, 4), "n_top_genes": 60},
}


def hex_section(key: str, seed: int, n_genes: int = 90, side: int = 16) -> Section:
    """A hexagonal patch with four bands; two thirds of the genes each follow one band."""
    rng = np.random.default_rng(seed)
    row, half = np.divmod(np.arange(side * side), side)
    col = 2 * half + row % 2
    at = {(r, c): i for i, (r, c) in enumerate(zip(row, col, strict=True))}
    steps = ((0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1))
    edges = [(i, at[r + y, c + x]) for (r, c), i in at.items() for y, x in steps if (r + y, c + x) in at]
    i, j = np.array(edges).T
    band = row * 4 // side
    follows = np.arange(n_genes) % 6
    rate = np.exp(np.random.default_rng(7).normal(0.5, 0.7, n_genes) + 1.2 * (follows[None] == band[:, None]))
    counts = rng.poisson(rate * rng.gamma(8.0, 1 / 8, (len(row), 1))).astype(np.int32)
    return Section(
        key=key,
        counts=sparse.csr_matrix(counts),
        genes=np.array([f"G{gene:03d}" for gene in range(n_genes)]),
        barcodes=np.array([f"{key}-{spot}" for spot in range(len(row))]),
        array_row=row.astype(np.int32),
        array_col=col.astype(np.int32),
        pixel=np.column_stack([col, row]).astype(float),
        layer=np.array([f"Layer{b + 1}" for b in band]),
        sum_umi=counts.sum(axis=1) * 3.0 + 1.0,
        adjacency=sparse.csr_matrix((np.ones(len(i), bool), (i, j)), shape=(len(row), len(row))),
    )


def with_genes(section: Section, genes: np.ndarray) -> Section:
    """The section with a subset of its genes."""
    return dataclasses.replace(section, counts=section.counts[:, genes], genes=section.genes[genes])


def fit(method: str, cohort: list[Section], *, seed: int, **params: Any) -> Encoder:
    return resolve(method).fit(cohort, seed=seed, **params)


@pytest.fixture(scope="module")
def cohort():
    return [hex_section("a", 1), hex_section("b", 2)]


@pytest.fixture(scope="module")
def fitted(cohort):
    return {method: fit(method, cohort, seed=3, **params) for method, params in SMALL.items()}


@pytest.mark.parametrize("method", SMALL)
def test_a_saved_encoder_gives_identical_embeddings(method, fitted, cohort, tmp_path):
    save_encoder(fitted[method], method, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    for section in (*cohort, hex_section("new", 9)):
        z = fitted[method].embed(section)
        assert z.dtype == np.float32 and len(z) == section.n_spots
        np.testing.assert_array_equal(loaded.embed(section), z)


@pytest.mark.parametrize("method", SMALL)
def test_fitting_again_in_any_order_of_the_cohort_gives_the_same_bytes(method, fitted, cohort, tmp_path):
    save_encoder(fitted[method], method, tmp_path / "one")
    save_encoder(fit(method, cohort[::-1], seed=3, **SMALL[method]), method, tmp_path / "two")
    save_encoder(load_encoder(tmp_path / "one"), method, tmp_path / "three")
    first = (tmp_path / "one").read_bytes()
    assert first == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()


@pytest.mark.parametrize("method", SMALL)
def test_the_file_says_what_the_encoder_was_fitted_on_and_with(method, fitted, tmp_path):
    save_encoder(fitted[method], method, tmp_path / "encoder")
    metadata = encoder_metadata(tmp_path / "encoder")
    assert (metadata["method"], metadata["cohort"], metadata["seed"]) == (method, ["a", "b"], 3)
    assert metadata["params"]["min_gene_share"] == 0.4 and "hvg_flavor" in metadata["params"]
    assert {"numpy", "scipy", "scikit-learn", "scanpy"} <= set(metadata["versions"])
    assert set(metadata["genes"]) <= {f"G{gene:03d}" for gene in range(90)}


@pytest.mark.parametrize("method", SMALL)
def test_a_new_section_with_half_the_genes_is_embedded_and_the_encoder_is_not_touched(method, fitted, tmp_path):
    encoder = fitted[method]
    save_encoder(encoder, method, tmp_path / "before")
    whole = hex_section("new", 9)
    half = with_genes(whole, np.random.default_rng(0).permutation(np.flatnonzero(np.arange(90) % 20 < 10)))
    z = encoder.embed(half)
    save_encoder(encoder, method, tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert 0.4 <= encoder.gene_share(half) < 0.6 and encoder.gene_share(whole) == 1
    assert validate_embedding(z, half.n_spots).valid
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (z, encoder.embed(whole))]
    same_spot, any_spot = (unit[0] * unit[1]).sum(axis=1).mean(), (unit[0] @ unit[1].T).mean()
    assert same_spot - any_spot > 0.5 * (1 - any_spot)


@pytest.mark.parametrize("method", SMALL)
def test_a_section_with_too_few_genes_is_refused_by_name_share_and_limit(method, fitted):
    few = with_genes(hex_section("poor", 9), np.arange(30))
    share = fitted[method].gene_share(few)
    with pytest.raises(
        GeneShareError, match=rf"section poor has gene share {share:.1%} .*a, b .*min_gene_share = 40\.0%"
    ) as refused:
        fitted[method].embed(few)
    assert "fit an encoder on a cohort that includes it" in str(refused.value)


def test_the_limit_of_genes_is_a_parameter(cohort):
    encoder = fit("pca", cohort, seed=0, n_components=8, min_gene_share=0.2)
    few = with_genes(hex_section("poor", 9), np.arange(30))
    assert encoder.embed(few).shape == (few.n_spots, 8)
    stranger = dataclasses.replace(few, genes=np.array([f"ENSG{gene}" for gene in range(30)]))
    with pytest.raises(GeneShareError, match="symbols or Ensembl ids"):
        encoder.embed(stranger)


@pytest.mark.parametrize("method", SMALL)
def test_sections_without_common_genes_are_named(method, cohort):
    stranger = dataclasses.replace(cohort[1], key="other", genes=np.array([f"ENSG{gene}" for gene in range(90)]))
    with pytest.raises(EncoderError, match=r"share 0 genes.*a: 90 genes such as G000.*other: 90 genes such as ENSG0"):
        fit(method, [cohort[0], stranger], seed=0)


def test_a_cohort_names_each_section_once(cohort):
    with pytest.raises(EncoderError, match="names a more than once"):
        fit("pca", [cohort[0], cohort[0]], seed=0)
    with pytest.raises(EncoderError, match="is empty"):
        fit("pca", [], seed=0)


def test_more_components_than_spots_are_refused_with_both_numbers(cohort):
    with pytest.raises(EncoderError, match="share 90 genes, expected at least 601"):
        fit("pca", cohort, seed=0, n_components=600)
    tiny = [hex_section("t", 1, side=4)]
    with pytest.raises(EncoderError, match="30 components of 16 spots x 90 shared genes"):
        fit("pca", tiny, seed=0)


def test_the_seed_moves_the_bank_but_not_the_pca(cohort, fitted):
    z = fitted["pca"].embed(cohort[0])
    again = fit("pca", cohort, seed=4, **SMALL["pca"]).embed(cohort[0])
    np.testing.assert_allclose(again, z, atol=2e-3 * np.abs(z).max())
    bank = fit("partition_bank", cohort, seed=4, **SMALL["partition_bank"])
    assert not np.array_equal(bank.embed(cohort[0]), fitted["partition_bank"].embed(cohort[0]))


@pytest.mark.parametrize("method", SMALL)
def test_progress_runs_from_0_to_1(method, cohort):
    seen: list[float] = []
    fit(method, cohort, seed=0, progress=lambda fraction, message: seen.append(fraction), **SMALL[method])
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)


def test_an_unknown_method_is_answered_with_those_that_exist_and_the_form_of_a_plug_in():
    for method in ("staig", "", "no_such_module:Thing", ":Thing"):
        with pytest.raises(EncoderError, match=r"pca, pca_smooth, partition_bank, or a plug-in 'some\.module:Class'"):
            resolve(method)
    with pytest.raises(EncoderError, match="has no such class"):
        resolve("collapsing_encoder:NoSuchClass")
    with pytest.raises(EncoderError, match="expected a subclass of Encoder"):
        resolve("collapsing_encoder:smoothed")


def test_a_plug_in_is_saved_and_loaded_like_a_built_in(cohort, tmp_path):
    method = "collapsing_encoder:NeverRecoversForOneSection"
    encoder = fit(method, cohort, seed=0, section="b")
    save_encoder(encoder, method, tmp_path / "encoder")
    np.testing.assert_array_equal(load_encoder(tmp_path / "encoder").embed(cohort[0]), encoder.embed(cohort[0]))
    with pytest.raises(EncoderError, match="'pca' is PCAEncoder, the encoder NeverRecovers"):
        save_encoder(encoder, "pca", tmp_path / "wrong")


def test_an_unknown_parameter_is_named_with_those_that_exist():
    for method in BUILT_IN:
        with pytest.raises(EncoderError, match=rf"{method} has no parameter n_comp; it takes .*n_top_genes"):
            check_params(method, {"n_comp": 3})


def test_a_file_that_is_no_encoder_is_refused_with_its_path(tmp_path, fitted):
    (tmp_path / "text").write_text("not an encoder")
    save_file({"x": np.zeros(3)}, tmp_path / "tensors")
    save_encoder(fitted["pca"], "pca", tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-100])
    for name in ("text", "tensors", "cut", "absent"):
        with pytest.raises(EncoderError, match=rf"{tmp_path / name}.*expected a file written by save_encoder"):
            load_encoder(tmp_path / name)


def test_counts_are_normalised_by_the_umis_of_all_genes(cohort):
    subset = with_genes(cohort[0], np.arange(20))
    expected = np.log1p(cohort[0].counts[:, :20].toarray() / cohort[0].sum_umi[:, None] * 1e4)
    np.testing.assert_allclose(log_normalised(subset, subset.genes).toarray(), expected, rtol=1e-6)
    empty = dataclasses.replace(subset, sum_umi=np.where(np.arange(subset.n_spots) < 2, 0.0, subset.sum_umi))
    with pytest.raises(EncoderError, match="section a: 2 spots have sum_umi 0"):
        log_normalised(empty, empty.genes)


def test_genes_are_scaled_within_the_section_and_a_constant_gene_becomes_its_mean(cohort):
    counts = cohort[0].counts.tolil()
    counts[:, 5] = 0
    z = standardised(dataclasses.replace(cohort[0], counts=counts.tocsr()), cohort[0].genes[::-1])
    varies = np.arange(90)[::-1] != 5
    np.testing.assert_allclose(z[:, varies].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z[:, varies].std(axis=0), 1, atol=1e-3)
    assert not z[:, ~varies].any()


@pytest.mark.parametrize("flavor", ["seurat", "seurat_v3"])
def test_a_gene_that_differs_only_between_sections_is_not_highly_variable(flavor, cohort):
    batch = 5  # follows no band; 12 times as high in the second section
    counts = cohort[1].counts.tolil()
    counts[:, batch] = np.random.default_rng(0).poisson(60, (cohort[1].n_spots, 1))
    sections = [cohort[0], dataclasses.replace(cohort[1], counts=counts.tocsr())]
    genes = shared_genes(sections)
    chosen = highly_variable(sections, genes, 30, flavor)
    assert chosen.sum() == 30 and not chosen[batch]
    assert highly_variable(sections, genes, 90, flavor).all()


def test_smoothing_is_the_mean_of_a_spot_and_its_neighbours(cohort):
    adjacency = cohort[0].adjacency
    z = np.random.default_rng(0).normal(size=(adjacency.shape[0], 3))
    spot = 100
    around = [spot, *adjacency[spot].indices]
    np.testing.assert_allclose(smoothed(z, adjacency, 1)[spot], z[around].mean(axis=0))
    np.testing.assert_allclose(smoothed(smoothed(z, adjacency, 1), adjacency, 3), smoothed(z, adjacency, 4))
    np.testing.assert_allclose(smoothed(np.ones((adjacency.shape[0], 1)), adjacency, 4), 1)


def test_the_surroundings_are_the_spots_within_so_many_steps(cohort):
    adjacency = cohort[0].adjacency
    reached = surroundings(adjacency, 3)
    for start in (0, 100, 137):
        distance, queue = {start: 0}, deque([start])
        while queue:
            spot = queue.popleft()
            for neighbour in adjacency[spot].indices:
                if neighbour not in distance and distance[spot] < 3:
                    distance[neighbour] = distance[spot] + 1
                    queue.append(neighbour)
        assert set(reached[start].indices) == set(distance)
    middle = 8 * 16 + 8
    assert [surroundings(adjacency, hops)[middle].nnz for hops in range(5)] == [1, 7, 19, 37, 61]
    assert set(reached.data) == {1.0}


def test_the_mixture_is_that_of_scikit_learn_from_the_same_start():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)) @ rng.normal(size=(5, 5)) + 3 * rng.normal(size=(4, 5))[rng.integers(0, 4, 600)]
    labels = KMeans(4, n_init=1, random_state=0).fit_predict(x)
    ours = _expectation_maximisation(x, np.eye(4)[labels], 100, 1e-3, 1e-4)
    theirs = GaussianMixture(
        4,
        covariance_type="tied",
        reg_covar=1e-4,
        means_init=[x[labels == k].mean(axis=0) for k in range(4)],
        weights_init=np.bincount(labels) / 600,
        precisions_init=np.linalg.inv(
            sum((labels == k).sum() * np.cov(x[labels == k].T, bias=True) for k in range(4)) / 600 + 1e-4 * np.eye(5)
        ),
    ).fit(x)
    # scikit-learn takes its E step before the first M step, so it is one behind in counting, equal at the end.
    assert abs(ours.log_likelihood - theirs.score(x)) < 2e-3
    assert adjusted_rand_score(ours.assign(x), theirs.predict(x)) > 0.98
    assert (
        fit_tied_mixture(x, 4, seed=0, n_init=4).log_likelihood
        >= fit_tied_mixture(x, 4, seed=0, n_init=1).log_likelihood
    )


def test_a_mixture_assigns_by_the_density_of_its_components():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)) * [1, 3, 0.5] + 2 * rng.normal(size=(3, 3))[rng.integers(0, 3, 300)]
    mixture = fit_tied_mixture(x, 3, seed=0)
    covariance = np.linalg.inv(mixture.precision_cholesky @ mixture.precision_cholesky.T)
    density = np.stack(
        [
            weight * multivariate_normal(mean, covariance).pdf(x)
            for weight, mean in zip(mixture.weights, mixture.means, strict=True)
        ]
    )
    np.testing.assert_array_equal(mixture.assign(x), density.argmax(axis=0))
    # the stored likelihood is of the last step's parameters
    assert abs(np.log(density.sum(axis=0)).mean() - mixture.log_likelihood) < 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=40))
def test_agreement_is_the_adjusted_rand_index(rows):
    labels = list(np.array(rows).T)
    agreement = pairwise_agreement(labels)
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            assert agreement[i, j] == pytest.approx(adjusted_rand_score(first, second), abs=1e-9)


class RealPair:
    """151673 and 151676 with their RM-IDEAL in both directions."""

    def __init__(self, dlpfc):
        self.sections = [load_section(dlpfc / f"{key}.h5ad", key) for key in ("151673", "151676")]

    def a(self, encoder) -> list[tuple[float, float]]:
        """Metric A of all layers and of Layer3, for 151673 -> 151676 and back."""
        z = [encoder.embed(section) for section in self.sections]
        found = []
        for source, target in ((0, 1), (1, 0)):
            first, second = self.sections[source], self.sections[target]
            *graphs, spots, others = labelled_graphs(first, second)
            layers = first.layer[spots], second.layer[others]
            values = query_values(z[source][spots], z[target][others], rm_ideal(*graphs), *layers)["A"]
            found.append((float(np.nanmean(values)), float(np.nanmean(values[layers[0] == "Layer3"]))))
        return found


@pytest.fixture(scope="module")
def real_pair(dlpfc):
    return RealPair(dlpfc)


def test_smoothed_pca_reaches_the_reference_figures_on_the_real_pair(real_pair):
    encoder = fit("pca_smooth", real_pair.sections, seed=0)
    assert all(validate_embedding(encoder.embed(s), s.n_spots).valid for s in real_pair.sections)
    (there, there_layer3), (back, back_layer3) = real_pair.a(encoder)
    assert min(there, back) >= 0.60
    assert there_layer3 == pytest.approx(0.65, abs=0.03) and back_layer3 == pytest.approx(0.68, abs=0.03)


def test_the_partition_bank_reaches_its_figures_on_the_real_pair_and_on_a_section_with_half_the_genes(real_pair, dlpfc):
    encoder = fit("partition_bank", real_pair.sections, seed=0)
    for all_layers, layer3 in real_pair.a(encoder):
        assert all_layers >= 0.80 and layer3 >= 0.73
    sibling = load_section(dlpfc / "151674.h5ad", "151674")
    assert 0.4 < encoder.gene_share(sibling) < 0.55
    for section in (*real_pair.sections, sibling):
        assert validate_embedding(encoder.embed(section), section.n_spots).valid
