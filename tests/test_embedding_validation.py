"""An embedding that collapsed is told from one that is unusual, and a fit that collapsed is tried again, on record."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_encoders import SMALL, hex_section

from science.spatial.encoders import EncoderError, resolve
from science.spatial.fitting import Attempt, EmbeddingCollapsed, fit_validated
from science.spatial.validation import CHECKS, effective_rank, mean_cosine, validate_embedding

N = 400
RNG = np.random.default_rng(0)
LINE = RNG.normal(size=12)


def failed(z: np.ndarray, n_spots: int = N) -> set[str]:
    return {check.name for check in validate_embedding(z, n_spots).checks if not check.passed}


def with_rows(rows: slice, value: float) -> np.ndarray:
    z = np.random.default_rng(1).normal(size=(N, 12))
    z[rows] = value
    return z


COLLAPSED: dict[str, tuple[np.ndarray, str]] = {
    "zeros": (np.zeros((N, 12)), "norms"),
    "some rows zero": (with_rows(slice(0, N, 7), 0.0), "norms"),
    "one row all but zero": (with_rows(slice(3, 4), 1e-8), "norms"),
    "one row NaN": (with_rows(slice(5, 6), np.nan), "finite"),
    "all NaN": (np.full((N, 12), np.nan), "finite"),
    "infinity": (with_rows(slice(0, 1), np.inf), "finite"),
    "one vector": (np.tile(LINE, (N, 1)), "not_constant"),
    "one vector with noise of 0.1 %": (LINE + 1e-3 * RNG.normal(size=(N, 12)), "not_constant"),
    "one vector with noise of 1 %": (LINE + 1e-2 * RNG.normal(size=(N, 12)), "variance"),
    "one direction, other lengths": (RNG.gamma(2.0, 1.0, (N, 1)) * LINE, "not_constant"),
    "one line": (RNG.normal(size=(N, 1)) * LINE, "effective_rank"),
    "one line with noise of 1 %": (RNG.normal(size=(N, 1)) * LINE + 1e-2 * RNG.normal(size=(N, 12)), "effective_rank"),
    "a row too few": (RNG.normal(size=(N - 1, 12)), "shape"),
    "no columns": (np.zeros((N, 0)), "shape"),
    "a vector": (RNG.normal(size=N), "shape"),
    "no rows": (np.zeros((0, 12)), "shape"),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_what_collapsed_fails_the_check_that_names_it(name):
    z, check = COLLAPSED[name]
    assert check in failed(z)
    assert f"{check} " in validate_embedding(z, N).reason


LEGITIMATE: dict[str, np.ndarray] = {
    "Gaussian": RNG.normal(size=(N, 12)),
    "tiny numbers": 1e-4 * RNG.normal(size=(N, 12)),
    "huge numbers in float32": (1e18 * RNG.normal(size=(N, 12))).astype(np.float32),
    "two dimensions": RNG.normal(size=(N, 2)) * [1.0, 0.4],
    "compositions": RNG.dirichlet(np.full(8, 0.3), N),
    "compositions that are much alike": RNG.dirichlet(np.full(8, 30.0), N),
    "a large common part": 3.0 + RNG.normal(size=(N, 12)),
    "more dimensions than spots": RNG.normal(size=(N, 900)),
    "five clusters": np.eye(5)[RNG.integers(0, 5, N)],
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_what_is_only_unusual_passes(name):
    assert failed(LEGITIMATE[name]) == set()


@pytest.mark.parametrize("side", [7, 16])
@pytest.mark.parametrize("method", SMALL)
def test_every_encoder_passes_also_on_small_sections(method, side):
    cohort = [hex_section("a", 1, side=side), hex_section("b", 2, side=side)]
    encoder = resolve(method).fit(cohort, seed=0, **SMALL[method])
    for section in (*cohort, hex_section("new", 3, side=side)):
        assert failed(encoder.embed(section), section.n_spots) == set()


def test_a_report_says_for_every_check_what_was_measured_allowed_and_meant():
    report = validate_embedding(LEGITIMATE["Gaussian"], N)
    assert [check.name for check in report.checks] == list(CHECKS) == list(report.values)
    assert report.valid and report.reason == ""
    assert all(check.meaning and np.isfinite([check.value, check.limit]).all() for check in report.checks)
    bad = validate_embedding(with_rows(slice(0, 3), 0.0), N + 1)
    assert bad.reason.startswith("shape 400, limit 401 (one row for each spot")
    assert "; norms 3, limit 0 (no zero row" in bad.reason


def test_broken_rows_do_not_hide_what_the_others_are():
    z = np.tile(LINE, (N, 1))
    z[:5] = np.nan
    z[5:9] = 0
    report = validate_embedding(z, N)
    assert {"finite", "norms", "not_constant"} <= failed(z)
    assert (report.values["finite"], report.values["norms"]) == (5, 4)
    assert report.values["not_constant"] == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=st.floats(-3, 3)))
def test_the_mean_cosine_is_that_of_all_pairs(z):
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    unit = np.where(norm > 1e-3, z / np.maximum(norm, 1e-3), np.eye(z.shape[1])[0])
    cosine = unit @ unit.T
    assert mean_cosine(unit) == pytest.approx(cosine[~np.eye(len(z), dtype=bool)].mean(), abs=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_effective_rank_counts_equal_axes(rank):
    basis = np.linalg.qr(RNG.normal(size=(9, 9)))[0][:rank]
    corners = np.vstack([np.eye(rank), -np.eye(rank)]) @ basis
    assert effective_rank(corners) == pytest.approx(rank)
    assert effective_rank(1e-30 * corners) == pytest.approx(rank)


@pytest.fixture(scope="module")
def three():
    return [hex_section(key, seed) for seed, key in enumerate("abc")]


def test_a_collapsed_fit_is_refitted_with_another_seed_and_both_attempts_are_returned(three):
    said: list[str] = []
    encoder, attempts = fit_validated(
        "collapsing_encoder:CollapsesOnFirstSeed", three, seed=2, progress=lambda fraction, text: said.append(text)
    )
    assert encoder.seed == 1002
    assert [(each.attempt, each.seed, each.section, each.valid) for each in attempts] == [
        (0, 2, "a", False), (0, 2, "b", False), (0, 2, "c", False),
        (1, 1002, "a", True), (1, 1002, "b", True), (1, 1002, "c", True),
    ]  # fmt: skip
    assert all("not_constant 1, limit 0.995" in each.reason for each in attempts[:3])
    assert attempts[0].values["not_constant"] == pytest.approx(1) and attempts[3].values["not_constant"] < 0.9
    assert any("attempt 2 of at most 4, seed 1002" in text for text in said)


def test_a_valid_fit_is_not_repeated(three):
    encoder, attempts = fit_validated("pca", three, seed=5, params=SMALL["pca"])
    assert encoder.seed == 5 and {each.attempt for each in attempts} == {0} and all(each.valid for each in attempts)


def test_where_one_section_never_recovers_the_first_of_the_best_fits_is_kept(three):
    method = "collapsing_encoder:NeverRecoversForOneSection"
    encoder, attempts = fit_validated(method, three, seed=0, params={"section": "b"}, max_refits=2)
    assert encoder.seed == 0
    assert {each.seed for each in attempts} == {0, 1000, 2000} and len(attempts) == 9
    assert {each.section for each in attempts if not each.valid} == {"b"}
    assert failed(encoder.embed(three[1]), three[1].n_spots) >= {"norms"}
    assert failed(encoder.embed(three[0]), three[0].n_spots) == set()


def test_where_nothing_is_ever_valid_the_error_carries_every_attempt(three):
    method = "collapsing_encoder:NeverRecoversForOneSection"
    with pytest.raises(
        EmbeddingCollapsed, match="no valid embedding of any section of its cohort in 3 attempts"
    ) as error:
        fit_validated(method, three[:1], seed=7, params={"section": "a"}, max_refits=2)
    attempts = error.value.attempts
    assert [each.seed for each in attempts] == [7, 1007, 2007] and all(isinstance(each, Attempt) for each in attempts)
    for each in attempts:
        assert f"| {each.attempt} | {each.seed} | a | norms 128, limit 0" in str(error.value)


def test_no_refits_means_one_fit(three):
    with pytest.raises(EmbeddingCollapsed, match="in 1 attempts"):
        fit_validated("collapsing_encoder:CollapsesOnFirstSeed", three, seed=0, max_refits=0)
    with pytest.raises(ValueError, match="max_refits is -1; expected 0"):
        fit_validated("pca", three, seed=0, max_refits=-1)


def test_a_parameter_that_does_not_exist_is_refused_before_anything_is_fitted(three):
    with pytest.raises(EncoderError, match="pca has no parameter steps; it takes n_components"):
        fit_validated("pca", three, seed=0, params={"steps": 4})
