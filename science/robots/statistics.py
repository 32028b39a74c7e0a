"""What counts of successes say and whether two policies differ: intervals, the paired test, its size, recovery.

Episodes that ended in an error are neither successes nor failures: leave them out before calling anything here, and
report their number beside the rate. Everything is a closed form or a root of one; nothing is simulated. An interval
covers other seeds of the SAME task and the same checkpoint, not other training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

CONFIDENCE = 0.95

_LARGEST_EXACT_N = 10_000
"""From here on the exact test needs at most about 1 % more seeds than its approximation, which is returned instead."""


class StatisticsError(ValueError):
    """Counts or rates that say nothing: negative, more successes than episodes, no shared seed."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; ``value`` is None where there is no episode to estimate it from."""

    value: float | None
    low: float
    high: float

    def apart_from(self, other: Interval) -> bool:
        """Whether the two intervals have no point in common."""
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class PairedTest:
    """Two policies, or two arms of one policy, on the seeds that both ran.

    Attributes
    ----------
    n_shared : seeds that both ran to success or failure.
    both, only_a, only_b, neither : how many of them were solved by whom; they sum to ``n_shared``.
    p : McNemar's exact two-sided p: the binomial test of ``only_a`` among the discordant seeds (Fagerland, Lydersen
        and Laake 2013, BMC Med. Res. Methodol. 13:91). Never anticonservative. 1 without discordant seeds.
    mid_p : the same less the probability of the observed split; less conservative (same source).
    difference : rate of a minus rate of b on these seeds, with Tango's score interval (Tango 1998, Stat. Med. 17:891).
        It excludes 0 exactly where McNemar's asymptotic test without continuity correction rejects, so near the border
        it may exclude 0 while the exact ``p`` is above 0.05.
    """

    n_shared: int
    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    mid_p: float
    difference: Interval


@dataclass(frozen=True)
class Recovery:
    """What became of perturbed episodes.

    Attributes
    ----------
    n : episodes with the perturbation armed.
    fired : in how many it fired; the others are ``not_fired``, a class of their own.
    solved_before : fired, yet the task had been solved before that; counted as fired and never as recovered.
    recovered : solved after it fired.
    fire_rate, recovery_rate : fired / n and recovered / fired, with Wilson intervals.
    steps_to_recover : median control steps from firing to success over the recovered episodes; None without one.
    """

    n: int
    fired: int
    not_fired: int
    solved_before: int
    recovered: int
    fire_rate: Interval
    recovery_rate: Interval
    steps_to_recover: float | None


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a rate (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Never empty and never outside [0, 1], also at 0 and at n successes: 0 of 250 gives [0, 0.015]. Without an episode
    it is [0, 1] around no value.

    Raises
    ------
    StatisticsError
        For counts that are not whole, negative, or more successes than episodes; a confidence outside (0, 1).
    """
    successes, n = _count(successes, "successes"), _count(n, "n")
    if successes > n:
        raise StatisticsError(f"found {successes} successes of {n} episodes, expected at most {n}; count both again")
    _check_inside(confidence, "confidence")
    if n == 0:
        return Interval(None, 0.0, 1.0)
    z = float(special.ndtri(0.5 + confidence / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(rate, low, high)


def mcnemar(a: Mapping[Hashable, bool], b: Mapping[Hashable, bool], confidence: float = CONFIDENCE) -> PairedTest:
    """Compare two policies on the seeds that both ran; seeds of one alone are left out.

    Parameters
    ----------
    a, b : whether each seed was solved. Pairing is legitimate only where a seed decides the episode's initial state.

    Raises
    ------
    StatisticsError
        Without a shared seed; for outcomes that are not true or false.
    """
    shared = [seed for seed in a if seed in b]
    if not shared:
        raise StatisticsError(
            f"found no seed that both ran (the first ran {len(a)}, the second {len(b)}), expected at least one; "
            "evaluate both on the same seeds, or compare their rates as unpaired"
        )
    solved_a, solved_b = _flags([a[seed] for seed in shared], "a"), _flags([b[seed] for seed in shared], "b")
    only_a, only_b = int(np.sum(solved_a & ~solved_b)), int(np.sum(~solved_a & solved_b))
    discordant, smaller = only_a + only_b, min(only_a, only_b)
    tails = 2 * float(stats.binom.cdf(smaller, discordant, 0.5))
    return PairedTest(
        n_shared=len(shared),
        both=int(np.sum(solved_a & solved_b)),
        only_a=only_a,
        only_b=only_b,
        neither=int(np.sum(~solved_a & ~solved_b)),
        p=min(1.0, tails),
        mid_p=min(1.0, tails - float(stats.binom.pmf(smaller, discordant, 0.5))),
        difference=paired_difference(only_a, only_b, len(shared), confidence),
    )


def paired_difference(only_a: int, only_b: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Difference of two rates on ``n`` shared seeds with Tango's score interval (Tango 1998, Stat. Med. 17:891).

    It never collapses: without discordant seeds it is +-z^2 / (n + z^2).

    Raises
    ------
    StatisticsError
        For counts that are not whole or do not fit ``n``, or a confidence outside (0, 1).
    """
    only_a, only_b, n = _count(only_a, "only_a"), _count(only_b, "only_b"), _count(n, "n")
    if n == 0 or only_a + only_b > n:
        raise StatisticsError(f"found {only_a} + {only_b} discordant seeds of {n}, expected at most {n}, and n above 0")
    _check_inside(confidence, "confidence")
    z = float(special.ndtri(0.5 + confidence / 2))
    observed = (only_a - only_b) / n

    def score(delta: float) -> float:
        """Tango's statistic: the observed difference less ``delta``, over its standard error under ``delta``."""
        linear = -only_a - only_b + (2 * n - only_a + only_b) * delta
        constant = -only_b * delta * (1 - delta)
        rarer = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * rarer + delta * (1 - delta))
        return (only_a - only_b - n * delta) / math.sqrt(max(variance, 1e-300))

    def bound(end: float, target: float) -> float:
        inside = end * (1 - 1e-12)
        if abs(observed - end) < 1e-12 or (score(inside) - target) * (score(observed) - target) > 0:
            return end
        return float(optimize.brentq(lambda delta: score(delta) - target, *sorted((inside, observed)), xtol=1e-12))

    return Interval(observed, bound(-1.0, z), bound(1.0, -z))


def n_to_separate(
    p1: float, p2: float, power: float = 0.8, alpha: float = 0.05, discordance: float | None = None
) -> int | None:
    """Shared seeds after which the exact McNemar test tells two policies with these rates apart, the better one ahead.

    From the number of Connor (1987, Biometrics 43:207) up or down to where the exact test itself just has the power
    (unconditional, over all numbers of discordant seeds: Duffy 1984, Biometrics 40:1005). Computed from rates that were
    measured, it is an estimate that inherits their uncertainty.

    Parameters
    ----------
    p1, p2 : success rates.
    power : probability that the test finds the difference.
    alpha : two-sided level.
    discordance : share of seeds that exactly one of the two solves. Unknown (None), the outcomes are ASSUMED
        independent given the rates, p1 (1 - p2) + p2 (1 - p1); seeds that are hard for both make it smaller, and fewer
        seeds suffice.

    Returns
    -------
    The number of seeds, or None for equal rates, which no number separates.

    Raises
    ------
    StatisticsError
        For rates outside [0, 1], power or level outside (0, 1), or a discordance that the rates do not admit.
    """
    _check_rates(p1, p2, power, alpha)
    gap = abs(p1 - p2)
    share = p1 * (1 - p2) + p2 * (1 - p1) if discordance is None else discordance
    most = min(p1 + p2, 2 - p1 - p2)
    if not gap - 1e-9 <= share <= most + 1e-9:
        raise StatisticsError(
            f"found a discordance of {share:g}, expected {gap:g} to {most:g}: no two policies of rates {p1:g} and "
            f"{p2:g} have it; give the share of seeds that exactly one of them solves"
        )
    if gap == 0:
        return None
    share = min(max(share, gap), 1.0)
    z_alpha, z_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    n = math.ceil(((z_alpha * math.sqrt(share) + z_power * math.sqrt(max(0.0, share - gap * gap))) / gap) ** 2)
    while n < _LARGEST_EXACT_N and mcnemar_power(n, gap, share, alpha) < power:
        n += 1
    while n < _LARGEST_EXACT_N and mcnemar_power(n - 1, gap, share, alpha) >= power:
        n -= 1
    return n


def mcnemar_power(n: int, gap: float, discordance: float, alpha: float = 0.05) -> float:
    """Probability that the exact McNemar test on ``n`` shared seeds puts the better of two policies ahead.

    Parameters
    ----------
    gap : difference of the two rates, above 0.
    discordance : share of seeds that exactly one of them solves, at least ``gap``.
    """
    spread = 10 * math.sqrt(n * discordance * (1 - discordance)) + 10
    discordant = np.arange(max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread)) + 1)
    critical = stats.binom.ppf(alpha / 2, discordant, 0.5)
    critical -= 2 * stats.binom.cdf(critical, discordant, 0.5) > alpha
    won_by_better = (discordance + gap) / (2 * discordance)
    ahead = np.where(critical >= 0, stats.binom.sf(discordant - critical - 1, discordant, won_by_better), 0.0)
    return float(stats.binom.pmf(discordant, n, discordance) @ ahead)


def n_to_separate_unpaired(p1: float, p2: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Seeds for EACH of two policies that were run on different seeds (Fleiss, Levin and Paik 2003, ch. 4).

    The two-sided normal test of two rates, without continuity correction. Returns and raises as `n_to_separate`.
    """
    _check_rates(p1, p2, power, alpha)
    if p1 == p2:
        return None
    z_alpha, z_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    pooled = (p1 + p2) / 2
    spread = z_alpha * math.sqrt(2 * pooled * (1 - pooled)) + z_power * math.sqrt(p1 * (1 - p1) + p2 * (1 - p2))
    return math.ceil((spread / (p1 - p2)) ** 2)


def recovery(
    fired: Sequence[bool],
    success: Sequence[bool],
    fired_step: Sequence[int | None],
    success_step: Sequence[int | None],
    confidence: float = CONFIDENCE,
) -> Recovery:
    """Recovery from a perturbation over perturbed episodes without error.

    Parameters
    ----------
    fired, success : whether the perturbation fired, and whether the task was solved.
    fired_step : control steps done when a state first shows the perturbation; None where it did not fire. A success in
        that very state came after firing.
    success_step : control steps done when the task was first solved; None where it was not.

    Raises
    ------
    StatisticsError
        For sequences of different lengths, or an event without its step or a step without its event.
    """
    lengths = [len(fired), len(success), len(fired_step), len(success_step)]
    if len(set(lengths)) != 1:
        raise StatisticsError(f"found {lengths} entries, expected one of each an episode")
    has_fired, solved = _flags(fired, "fired"), _flags(success, "success")
    for name, flags, steps in (("fired", has_fired, fired_step), ("success", solved, success_step)):
        wrong = [number for number, flag in enumerate(flags) if bool(flag) != (steps[number] is not None)]
        if wrong:
            raise StatisticsError(
                f"found episodes {wrong[:5]} whose {name} and {name}_step disagree, expected a step where it happened "
                "and None elsewhere"
            )
    waits = [
        int(done) - int(start)
        for start, done in zip(fired_step, success_step, strict=True)
        if start is not None and done is not None
    ]
    recovered = [wait for wait in waits if wait >= 0]
    n_fired = int(has_fired.sum())
    return Recovery(
        n=len(has_fired),
        fired=n_fired,
        not_fired=len(has_fired) - n_fired,
        solved_before=len(waits) - len(recovered),
        recovered=len(recovered),
        fire_rate=wilson(n_fired, len(has_fired), confidence),
        recovery_rate=wilson(len(recovered), n_fired, confidence),
        steps_to_recover=float(np.median(recovered)) if recovered else None,
    )


def _count(value: int, name: str) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < 0:
        raise StatisticsError(f"found {name} = {value!r}, expected a whole number of at least 0")
    return int(value)


def _flags(values: Sequence[bool], name: str) -> np.ndarray:
    strange = [value for value in values if not isinstance(value, bool | np.bool_)]
    if strange:
        raise StatisticsError(
            f"found {strange[0]!r} among the outcomes of {name}, expected true or false; leave errors out first"
        )
    return np.array(values, dtype=bool)


def _check_inside(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise StatisticsError(f"found {name} = {value!r}, expected a number between 0 and 1, neither included")


def _check_rates(p1: float, p2: float, power: float, alpha: float) -> None:
    wrong = [rate for rate in (p1, p2) if not 0 <= rate <= 1]
    if wrong:
        raise StatisticsError(f"found the rate {wrong[0]!r}, expected 0 to 1; divide successes by episodes")
    _check_inside(power, "power")
    _check_inside(alpha, "alpha")
