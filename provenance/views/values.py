"""The values of a trace with their n and interval, as words and as numbers.

What a row of each metric table says; `story.py` tells where it is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provenance.tree import Trace
from provenance.views.explained import METRICS, table_name

_HASH = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Number:
    """One value in words; empty texts where there is nothing to say.

    Attributes
    ----------
    name, value, n, interval : what it is, the value, what it is over, and its range.
    meaning : what the metric measures.
    exact, low, high : the value and its range as they are stored.
    """

    name: str
    value: str
    n: str = ""
    interval: str = ""
    meaning: str = ""
    exact: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def told(self) -> str:
        """All of it in one line."""
        return f"{self.name}: {self.value}" + "".join(f", {each}" for each in (self.n, self.interval) if each)


def numbers(trace: Trace) -> list[Number]:
    """The values of the rows that are traced; empty for a result that is not a number."""
    teller = _NUMBERS.get(table_name(trace.nodes[trace.root]))
    return [teller(row) for row in trace.value.iter_rows(named=True)] if teller else []


def short_hashes(text: str) -> str:
    """A text with its SHA-256s cut to twelve digits."""
    return _HASH.sub(lambda found: found[0][:12], text)


def _number(value: Any, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _counted(n: int, name: str) -> str:
    return f"{n} {name}" + ("" if n == 1 else "s")


def _interval(row: Mapping[str, Any], kind: str, digits: int = 3) -> str:
    if row["ci_low"] is None or row["ci_high"] is None:
        return ""
    return f"95 % {kind}interval {row['ci_low']:.{digits}f} to {row['ci_high']:.{digits}f}"


def _rate(row: Mapping[str, Any]) -> Number:
    arm = "" if row["arm"] == "control" else f", arm {row['arm']}"
    errors = f", {row['errors']} errors apart" if row["errors"] else ""
    return Number(
        f"{row['policy']} on {row['task']}{arm}",
        _number(row["rate"], 3),
        f"{row['successes']} of n = {row['n']} episodes{errors}",
        _interval(row, "Wilson "),
        exact=row["rate"],
        low=row["ci_low"],
        high=row["ci_high"],
    )


def _niche(row: Mapping[str, Any]) -> Number:
    return Number(
        f"{row['metric']}, layer {row['layer']}, {row['method']} seed {row['seed']}",
        _number(row["value"], 4),
        f"n = {row['n']} query spots",
        _interval(row, ""),
        METRICS.get(row["metric"], ""),
        row["value"],
        row["ci_low"],
        row["ci_high"],
    )


def _mean(row: Mapping[str, Any]) -> Number:
    spread = ""
    if row["lowest"] is not None and row["highest"] is not None:
        spread = f"single values from {row['lowest']:.4f} to {row['highest']:.4f}"
    return Number(
        f"{row['method']}, {row['metric']}, layer {row['layer']}",
        _number(row["mean"], 4),
        f"mean over {_counted(row['n_pairs'], 'directed pair')} and {_counted(row['n_seeds'], 'seed')} "
        f"({row['n_queries']} query spots a seed)",
        spread,
        METRICS.get(row["metric"], ""),
        row["mean"],
        row["lowest"],
        row["highest"],
    )


def _difference(row: Mapping[str, Any]) -> Number:
    return Number(
        f"{row['policy_a']} minus {row['policy_b']} on {row['task']}",
        f"{row['difference']:+.3f}",
        f"n = {row['n_shared']} shared seeds, p = {row['p']:.3g}",
        _interval(row, ""),
        exact=row["difference"],
        low=row["ci_low"],
        high=row["ci_high"],
    )


_NUMBERS: Mapping[str, Callable[[Mapping[str, Any]], Number]] = {
    "success_rate": _rate,
    "benchmark_policy": _rate,
    "niche_query": _niche,
    "benchmark_spatial": _mean,
    "benchmark_policy_pairs": _difference,
}
