"""Is an embedding fit to be compared, or did it collapse? Judged from the numbers alone, whatever made them.

Used wherever an embedding is made or read. The limits lie between what legitimate embeddings measure and what
collapsed ones do; both are written beside them. Random and oracle controls are not embeddings and are not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The lab's rule: a row with a smaller norm is a zero row, whose cosine means nothing.
ZERO_NORM = 1e-6

# Share of the mean squared norm that lies around the mean vector. Real sections 151673, 151676, and 151674 outside the
# cohort: pca and pca_smooth 1.0, partition_bank .71-.74, 3-hop layer composition .76; on simulated sections of 120
# spots partition_bank .26-.34; log counts smoothed four times .10. A constant with noise of 3 % .0009, of 1 % .0001.
MIN_VARIANCE_SHARE = 0.005

# exp(entropy of the shares of variance along the principal axes). Real: pca 7.3-15, pca_smooth 3.0-4.0 (2.2 after 30
# more smoothing steps, 1.5 after 1000), partition_bank 5.3-6.4, layer composition 4.9; simulated sections of 120 spots:
# pca_smooth 2.3, partition_bank 2.2. One direction 1.000, with noise of 1 % 1.001, of 10 % 1.10.
MIN_EFFECTIVE_RANK = 1.2

# Real: pca .02-.04, pca_smooth .06-.10, partition_bank .26-.29, layer composition .25 (8 hops .37); non-negative ones
# run higher: cell types with a flat prior .78, partition_bank on 120 spots .73, log counts smoothed four times .90.
# A constant with noise of 3 % .9991, of 1 % .9999.
MAX_MEAN_COSINE = 0.995

CHECKS = {
    "shape": "one row for each spot of the section and at least one column (value: rows)",
    "finite": "no NaN and no infinity (value: rows that have any)",
    "norms": f"no zero row, that is none with a norm below {ZERO_NORM:g} (value: such rows)",
    "variance": "share of the mean squared norm that lies around the mean vector; near 0 all spots are alike",
    "effective_rank": "exp of the entropy of the variance along principal axes; near 1 the embedding is a line",
    "not_constant": "mean cosine over all pairs of spots; near 1 all point one way, whatever their norms",
}


@dataclass(frozen=True)
class Check:
    """One property of an embedding: what was measured, what was allowed, and what it means."""

    name: str
    passed: bool
    value: float
    limit: float
    meaning: str


@dataclass(frozen=True)
class EmbeddingReport:
    """All checks of one embedding, in the order of `CHECKS`."""

    checks: tuple[Check, ...]

    @property
    def valid(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The checks that failed with value, limit and meaning; empty for a valid embedding."""
        return "; ".join(
            f"{check.name} {check.value:.4g}, limit {check.limit:.4g} ({check.meaning})"
            for check in self.checks
            if not check.passed
        )

    @property
    def values(self) -> dict[str, float]:
        """What each check measured."""
        return {check.name: check.value for check in self.checks}


def validate_embedding(z: np.ndarray, n_spots: int) -> EmbeddingReport:
    """Measure an embedding.

    Rows that are not finite or zero fail their own check; the others judge the rows that remain, so that the report
    says everything at once. A property that cannot be measured (fewer than two usable rows) is NaN and fails.

    Parameters
    ----------
    z : ``[n_spots, d]``, any real type.
    n_spots : spots of the section.
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or z.shape[1] == 0:
        unmeasured = dict.fromkeys(CHECKS, float("nan"))
        return _report({**unmeasured, "shape": float(len(z)) if z.ndim else 0.0}, n_spots, table=False)
    finite = np.isfinite(z).all(axis=1)
    norm = np.linalg.norm(z[finite], axis=1)
    nonzero = norm >= ZERO_NORM
    measured = {
        "shape": float(len(z)),
        "finite": float(np.sum(~finite)),
        "norms": float(np.sum(~nonzero)),
        "variance": variance_share(z[finite]),
        "effective_rank": effective_rank(z[finite]),
        "not_constant": mean_cosine(z[finite][nonzero] / norm[nonzero, None]),
    }
    return _report(measured, n_spots)


def _report(measured: dict[str, float], n_spots: int, *, table: bool = True) -> EmbeddingReport:
    # A comparison with NaN is False, so what could not be measured fails.
    limits = {
        "shape": (table and measured["shape"] == n_spots, n_spots),
        "finite": (measured["finite"] == 0, 0),
        "norms": (measured["norms"] == 0, 0),
        "variance": (measured["variance"] >= MIN_VARIANCE_SHARE, MIN_VARIANCE_SHARE),
        "effective_rank": (measured["effective_rank"] >= MIN_EFFECTIVE_RANK, MIN_EFFECTIVE_RANK),
        "not_constant": (measured["not_constant"] <= MAX_MEAN_COSINE, MAX_MEAN_COSINE),
    }
    return EmbeddingReport(
        tuple(
            Check(name, bool(limits[name][0]), float(measured[name]), float(limits[name][1]), meaning)
            for name, meaning in CHECKS.items()
        )
    )


def variance_share(z: np.ndarray) -> float:
    """Variance around the mean row over the mean squared norm, 0 to 1, for any scale; NaN if every row is zero."""
    total = float((z**2).sum())
    return float(((z - z.mean(axis=0)) ** 2).sum()) / total if total > 0 else float("nan")


def effective_rank(z: np.ndarray) -> float:
    """exp(entropy) of the shares of variance along the principal axes; 1 to d (Roy and Vetterli, EUSIPCO 2007).

    There of singular values, here of their squares, which noise of many small axes inflates less. NaN without
    variance.
    """
    if len(z) < 2:
        return float("nan")
    centred = z - z.mean(axis=0)
    largest = np.abs(centred).max()
    if largest == 0:
        return float("nan")
    centred = centred / largest  # so that squares of very small or large numbers stay representable
    gram = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    variance = np.clip(np.linalg.eigvalsh(gram), 0.0, None)
    share = variance / variance.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_cosine(unit: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows of norm 1: exact in O(n d), from the norm of their sum.

    ``|sum u|^2 = n + sum over ordered pairs of u_i . u_j``. NaN with fewer than two rows.
    """
    n = len(unit)
    if n < 2:
        return float("nan")
    total = unit.sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))
