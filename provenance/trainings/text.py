"""A comparison of two trainings as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from provenance.trainings.comparison import RunsComparison
from provenance.trainings.training import Training

_SHOWN_STEPS = 12


def as_text(found: RunsComparison) -> str:
    """Both trainings, what differs, the curves, the rates, and what follows."""
    lines = [f"A  {_line(found.a)}", f"B  {_line(found.b)}", "", "what differs (A | B):"]
    lines += [f"  {each.what}: {each.a} | {each.b}" for each in found.differences] or ["  nothing"]
    lines += ["", *_curve(found), "", *_rates(found), "", "what that says:"]
    return "\n".join([*lines, *(f"  - {each}" for each in found.conclusions)])


def _line(training: Training) -> str:
    which = f"{training.policy} on {training.task}" if training.policy else ""
    return ", ".join(part for part in (training.name, which, training.began, training.ending) if part)


def _curve(found: RunsComparison) -> Iterator[str]:
    """The first and the last shared step, and some between."""
    height = found.curve.height
    picked = sorted(
        {round(index * (height - 1) / (_SHOWN_STEPS - 1)) for index in range(_SHOWN_STEPS)} if height else ()
    )
    yield f"training loss at shared steps ({len(picked)} of {height}):"
    for step, a, b in found.curve[picked].iter_rows():
        yield f"  step {step:>7}  {a:.5g} | {b:.5g}"


def _rates(found: RunsComparison) -> Iterator[str]:
    yield f"success rates ({found.rates.height}):"
    for row in found.rates.iter_rows(named=True):
        rate = "no rate" if row["rate"] is None else f"{row['successes']}/{row['n']} = {row['rate']:.3f}"
        interval = f"95 % {row['ci_low']:.3f} to {row['ci_high']:.3f}"
        yield f"  {row['side'].upper()} step {row['step']}, {row['arm']}: {rate} ({interval})"
