"""Fit an encoder until it embeds its whole cohort validly, a bounded number of times, and keep every attempt.

A refit is for the whole cohort, never for one section: embeddings of encoders that were fitted apart cannot be
compared. What counts as valid is in `validation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from science.spatial.encoders.base import Encoder, Progress, check_params, no_progress, resolve
from science.spatial.section import Section
from science.spatial.validation import EmbeddingReport, validate_embedding

SEED_STEP = 1000  # attempts of seeds 0, 1, 2, ... of one variant do not meet
FIT_SHARE = 0.9  # of the progress of an attempt; the rest is embedding and validation


@dataclass(frozen=True)
class Attempt:
    """How one fit embedded one section of the cohort.

    Attributes
    ----------
    attempt : 0 for the first fit, 1 for the first refit, ...
    seed : seed of this fit.
    section : key of the section.
    valid, reason : verdict, and the failed checks in words (empty where valid).
    values : what each check measured, by name.
    """

    attempt: int
    seed: int
    section: str
    valid: bool
    reason: str
    values: Mapping[str, float]


class EmbeddingCollapsed(ValueError):
    """No attempt gave a valid embedding of any section; ``attempts`` holds them all."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(message)
        self.attempts = attempts


def fit_validated(
    method: str,
    cohort: Sequence[Section],
    *,
    seed: int,
    params: Mapping[str, Any] | None = None,
    max_refits: int = 3,
    progress: Progress = no_progress,
) -> tuple[Encoder, tuple[Attempt, ...]]:
    """Fit ``method`` on the cohort; where an embedding of a section is invalid, refit with another seed.

    Parameters
    ----------
    method : name or plug-in, see `encoders.base.resolve`.
    cohort : sections it is fitted on, jointly.
    seed : of the first fit; refit number i takes seed + 1000 i.
    params : keyword arguments of the method's `fit`.
    max_refits : how often it is fitted again at most.
    progress : told the fraction of the current attempt, and in words which attempt it is.

    Returns
    -------
    The encoder of the first attempt that embeds every section validly; if none does, that of the first attempt
    with the most valid sections (the sections that it loses are refused where they are embedded). And all attempts, one
    for each fit and section.

    Raises
    ------
    EmbeddingCollapsed : no attempt embeds any section validly.
    EncoderError : unknown method or parameter, or a cohort that cannot be fitted.
    """
    if max_refits < 0:
        raise ValueError(f"max_refits is {max_refits}; expected 0 (fit once) or more")
    params = dict(params or {})
    check_params(method, params)
    attempts: list[Attempt] = []
    best: Encoder | None = None
    most_valid = 0
    for attempt in range(max_refits + 1):
        fit_seed = seed + SEED_STEP * attempt
        name = f"attempt {attempt + 1} of at most {max_refits + 1}, seed {fit_seed}"

        def report(fraction: float, message: str, name: str = name) -> None:
            progress(FIT_SHARE * fraction, f"{name}: {message}")

        encoder = resolve(method).fit(cohort, seed=fit_seed, progress=report, **params)
        tried = []
        for number, section in enumerate(cohort):
            progress(FIT_SHARE + (1 - FIT_SHARE) * number / len(cohort), f"{name}: validating {section.key}")
            verdict = validate_embedding(encoder.embed(section), section.n_spots)
            tried.append(_attempt(attempt, fit_seed, section, verdict))
        attempts += tried
        n_valid = sum(each.valid for each in tried)
        if n_valid > most_valid:
            best, most_valid = encoder, n_valid
        if n_valid == len(tried):
            break
    if best is None:
        raise EmbeddingCollapsed(_collapse(method, attempts), tuple(attempts))
    progress(1.0, f"valid for {most_valid} of {len(cohort)} sections after {attempt + 1} fits")
    return best, tuple(attempts)


def _attempt(attempt: int, seed: int, section: Section, verdict: EmbeddingReport) -> Attempt:
    return Attempt(attempt, seed, section.key, verdict.valid, verdict.reason, verdict.values)


def _collapse(method: str, attempts: Sequence[Attempt]) -> str:
    table = "\n".join(f"| {each.attempt} | {each.seed} | {each.section} | {each.reason} |" for each in attempts)
    return (
        f"{method} gave no valid embedding of any section of its cohort in {attempts[-1].attempt + 1} attempts; "
        "nothing is kept. Try more max_refits, other parameters or another cohort. All attempts:\n"
        f"| attempt | seed | section | why it is invalid |\n| --- | --- | --- | --- |\n{table}"
    )
