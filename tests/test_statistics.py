"""Intervals, the paired test, its sample size and recovery, against published values, scipy and brute force."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from science.robots.statistics import (
    StatisticsError,
    mcnemar,
    mcnemar_power,
    n_to_separate,
    n_to_separate_unpaired,
    paired_difference,
    recovery,
    wilson,
)

Z = stats.norm.ppf(0.975)


def counts():
    return st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def discordant_counts():
    return st.integers(1, 120).flatmap(
        lambda n: st.integers(0, n).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, n - a), st.just(n)))
    )


def outcomes(both, only_a, only_b, neither):
    """Outcomes of two policies by seed with these four counts."""
    cells = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    return {seed: a for seed, (a, _) in enumerate(cells)}, {seed: b for seed, (_, b) in enumerate(cells)}


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 250, 0.0, 0.015), (10, 20, 0.299, 0.701), (20, 20, 0.839, 1.0), (106, 180, 0.516, 0.658)],
)
def test_wilson_gives_the_known_intervals(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-4)


@given(counts(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(count, confidence):
    successes, n = count
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    interval = wilson(successes, n, confidence)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts())
def test_wilson_contains_its_rate_and_mirrors_when_successes_and_failures_change_places(count):
    successes, n = count
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)


@given(counts())
def test_wilson_rises_with_successes_and_narrows_with_episodes(count):
    successes, n = count
    interval, larger = wilson(successes, n), wilson(2 * successes, 2 * n)
    assert larger.high - larger.low < interval.high - interval.low
    if successes < n:
        better = wilson(successes + 1, n)
        assert better.low > interval.low and better.high > interval.high


def test_no_episode_says_nothing():
    interval = wilson(0, 0)
    assert (interval.value, interval.low, interval.high) == (None, 0.0, 1.0)


@pytest.mark.parametrize("bad", [(3, 2), (-1, 2), (1, -2), (0.5, 2), (True, 2), (1, None)])
def test_counts_that_are_none_are_refused(bad):
    with pytest.raises(StatisticsError, match="expected"):
        wilson(*bad)


def test_the_paired_test_gives_the_published_p_values():
    # Fagerland, Lydersen and Laake 2013: airway hyper-responsiveness (Bentur et al. 2009) and complete response
    # (Cavo et al. 2012).
    airways = mcnemar(*outcomes(1, 1, 7, 12))
    assert (airways.p, airways.mid_p) == pytest.approx((0.0703125, 0.0390625))
    response = mcnemar(*outcomes(59, 6, 16, 80))
    assert response.mid_p == pytest.approx(0.034690, abs=1e-6)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n", "low", "high"), [(6, 16, 161, -0.1240, -0.0054), (1, 7, 21, -0.517, -0.026)]
)
def test_tangos_interval_is_the_published_one(only_a, only_b, n, low, high):
    interval = paired_difference(only_a, only_b, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-4)


def constrained_score(only_a, only_b, n, delta):
    """The score statistic at a difference, its nuisance parameter maximised numerically instead of in closed form."""

    def minus_log_likelihood(rarer):
        cells = np.array([rarer + delta, rarer, 1 - 2 * rarer - delta])
        seen = np.array([only_a, only_b, n - only_a - only_b])
        return -np.sum(seen[seen > 0] * np.log(np.maximum(cells[seen > 0], 1e-300)))

    least, most = max(0.0, -delta), (1 - delta) / 2
    rarer = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(least, most), method="bounded", options={"xatol": 1e-13}
    ).x
    return (only_a - only_b - n * delta) / math.sqrt(n * (2 * rarer + delta - delta**2))


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"), [(40, 20, 160), (1, 7, 21), (6, 16, 161), (5, 5, 20), (3, 0, 12), (0, 0, 30)]
)
def test_tangos_interval_ends_where_the_score_test_rejects(only_a, only_b, n):
    interval = paired_difference(only_a, only_b, n)
    assert constrained_score(only_a, only_b, n, interval.low) == pytest.approx(Z, abs=1e-4)
    assert constrained_score(only_a, only_b, n, interval.high) == pytest.approx(-Z, abs=1e-4)


@given(discordant_counts())
def test_the_paired_interval_contains_the_difference_and_mirrors(cells):
    only_a, only_b, n = cells
    interval, mirrored = paired_difference(only_a, only_b, n), paired_difference(only_b, only_a, n)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)


@given(discordant_counts())
def test_the_paired_interval_excludes_zero_where_the_asymptotic_test_rejects(cells):
    only_a, only_b, n = cells
    statistic = abs(only_a - only_b) / math.sqrt(only_a + only_b) if only_a + only_b else 0.0
    interval = paired_difference(only_a, only_b, n)
    if abs(statistic - Z) > 1e-6:
        assert (interval.low > 0 or interval.high < 0) == (statistic > Z)


def test_without_discordant_seeds_the_paired_interval_does_not_collapse():
    interval = paired_difference(0, 0, 20)
    assert interval.high == pytest.approx(Z**2 / (20 + Z**2)) and interval.low == -interval.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_paired_test_is_symmetric_and_the_binomial_test_of_discordant_seeds(cells):
    a, b = {seed: pair[0] for seed, pair in enumerate(cells)}, {seed: pair[1] for seed, pair in enumerate(cells)}
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert (one.p, one.mid_p, one.only_a, one.both) == (other.p, other.mid_p, other.only_b, other.both)
    assert one.difference.value == -other.difference.value
    assert one.both + one.only_a + one.only_b + one.neither == one.n_shared == len(cells)
    assert one.difference.value == pytest.approx(np.mean(list(a.values())) - np.mean(list(b.values())))
    discordant = one.only_a + one.only_b
    assert one.p == pytest.approx(stats.binomtest(one.only_a, discordant).pvalue if discordant else 1.0)
    assert one.mid_p <= one.p <= 1


def test_only_shared_seeds_are_compared():
    test = mcnemar({0: True, 1: True, 7: False}, {1: False, 7: False, 9: True})
    assert (test.n_shared, test.only_a, test.neither) == (2, 1, 1)


def test_policies_without_a_shared_seed_are_refused():
    with pytest.raises(StatisticsError, match="no seed that both ran"):
        mcnemar({0: True}, {1: True})


@pytest.mark.parametrize("outcome", [None, "success", 1, 0.0])
def test_an_outcome_that_is_neither_success_nor_failure_is_refused(outcome):
    with pytest.raises(StatisticsError, match="leave errors out"):
        mcnemar({0: outcome}, {0: True})


def test_the_paired_sample_size_starts_from_connors_published_example():
    # Connor 1987: discordant proportions 0.45 and 0.05 at 80 % power need 23 pairs in the asymptotic test.
    n = n_to_separate(0.45, 0.05, discordance=0.5)
    assert 23 <= n <= 26
    assert mcnemar_power(n, 0.4, 0.5) >= 0.8 > mcnemar_power(n - 1, 0.4, 0.5)


def enumerated_power(n, p1, p2, discordance):
    """Power of the exact test by summing over every table that n seeds can give."""
    only_1, only_2 = (discordance + p1 - p2) / 2, (discordance - p1 + p2) / 2
    total = 0.0
    for a, b in product(range(n + 1), repeat=2):
        if a + b <= n and a > b and stats.binomtest(a, a + b).pvalue <= 0.05:
            total += stats.multinomial.pmf([a, b, n - a - b], n, [only_1, only_2, 1 - discordance])
    return total


@pytest.mark.parametrize(("p1", "p2", "discordance"), [(0.9, 0.5, 0.5), (0.7, 0.35, 0.35), (0.8, 0.6, 0.44)])
def test_the_power_of_the_paired_test_is_that_of_every_table_enumerated(p1, p2, discordance):
    assert mcnemar_power(24, p1 - p2, discordance) == pytest.approx(enumerated_power(24, p1, p2, discordance), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_number_of_seeds_is_enough_symmetric_and_no_seed_could_be_spared(p1, p2, power):
    if abs(p1 - p2) < 0.05:
        return
    n = n_to_separate(p1, p2, power)
    assert n == n_to_separate(p2, p1, power)
    share = p1 * (1 - p2) + p2 * (1 - p1)
    assert mcnemar_power(n, abs(p1 - p2), share) >= power
    assert mcnemar_power(n - 1, abs(p1 - p2), share) < power
    assert n >= 6, "five discordant seeds on one side give p = 0.0625"


def test_fewer_seeds_suffice_where_the_same_seeds_are_hard_for_both():
    shared = n_to_separate(0.9, 0.8, discordance=0.12)
    assert shared < n_to_separate_unpaired(0.9, 0.8) and shared < n_to_separate(0.9, 0.8)


def test_rates_further_apart_need_fewer_seeds():
    numbers = [n_to_separate(0.9, other) for other in (0.85, 0.8, 0.7, 0.5, 0.0)]
    assert numbers == sorted(numbers, reverse=True)
    unpaired = [n_to_separate_unpaired(0.9, other) for other in (0.85, 0.8, 0.7, 0.5, 0.0)]
    assert unpaired == sorted(unpaired, reverse=True)


def test_the_unpaired_sample_size_is_the_published_one():
    # R's power.prop.test(p1 = .50, p2 = .75, power = .90): n = 76.7 a group.
    assert n_to_separate_unpaired(0.5, 0.75, power=0.9) == 77


def test_no_number_of_seeds_separates_equal_rates():
    assert n_to_separate(0.5, 0.5) is None and n_to_separate(0.0, 0.0) is None
    assert n_to_separate_unpaired(0.5, 0.5) is None


def test_a_tiny_difference_is_answered_by_the_approximation():
    assert n_to_separate(0.5, 0.501) > 1_000_000


def test_a_discordance_that_no_two_policies_have_is_refused():
    for impossible in (0.1, 0.9):
        with pytest.raises(StatisticsError, match=r"expected 0\.3 to 0\.7"):
            n_to_separate(0.2, 0.5, discordance=impossible)


@pytest.mark.parametrize("bad", [{"p1": 1.2}, {"p2": -0.1}, {"power": 1.0}, {"alpha": 0.0}])
def test_rates_that_are_none_are_refused(bad):
    for function in (n_to_separate, n_to_separate_unpaired):
        with pytest.raises(StatisticsError, match="expected"):
            function(**{"p1": 0.5, "p2": 0.6} | bad)


def test_recovery_counts_successes_after_firing_over_fired():
    found = recovery(
        fired=[True, True, True, False, False],
        success=[True, True, False, True, False],
        fired_step=[10, 20, 5, None, None],
        success_step=[40, 80, None, 30, None],
    )
    assert (found.n, found.fired, found.not_fired, found.recovered) == (5, 3, 2, 2)
    assert found.fire_rate == wilson(3, 5) and found.recovery_rate == wilson(2, 3)
    assert found.steps_to_recover == 45


def test_success_before_the_trigger_is_no_recovery():
    found = recovery([True, True], [True, True], [30, 30], [29, 30])
    assert (found.solved_before, found.recovered, found.recovery_rate.value) == (1, 1, 0.5)
    assert found.steps_to_recover == 0


def test_where_nothing_fired_there_is_no_recovery_rate():
    found = recovery([False] * 3, [True] * 3, [None] * 3, [1, 2, 3])
    assert (found.fire_rate.value, found.recovery_rate.value, found.steps_to_recover) == (0.0, None, None)


@pytest.mark.parametrize(
    "bad",
    [
        ([True], [False], [None], [None]),
        ([False], [False], [3], [None]),
        ([True], [True], [3], [None]),
        ([True, False], [True], [3], [4]),
        ([None], [False], [None], [None]),
    ],
)
def test_events_without_their_step_are_refused(bad):
    with pytest.raises(StatisticsError, match="expected"):
        recovery(*bad)


@given(
    st.lists(
        st.tuples(st.none() | st.integers(0, 50), st.none() | st.integers(0, 50)),
        max_size=40,
    )
)
def test_every_perturbed_episode_is_in_one_class(steps):
    fired_step, success_step = [fired for fired, _ in steps], [done for _, done in steps]
    found = recovery(
        [step is not None for step in fired_step], [step is not None for step in success_step], fired_step, success_step
    )
    assert found.fired + found.not_fired == found.n == len(steps)
    assert found.recovered + found.solved_before <= found.fired
    assert (found.steps_to_recover is None) == (found.recovered == 0)
