"""Numbers that others reported: shown below the leaderboard, marked as such, and never among the results."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from home import ROOT


class ReferencesError(ValueError):
    """A `references.toml` that cannot be used."""


@dataclass(frozen=True)
class Reference:
    """One reported success rate.

    Attributes
    ----------
    policy : whose, in the words of whoever reported it.
    tasks : on what, in the same words: suites and seeds are not those of this platform.
    successes, n : as reported.
    source : who reported it, and where.
    """

    policy: str
    tasks: str
    successes: int
    n: int
    source: str


def references_file() -> Path:
    """`$TRACEBED_REFERENCES`, or `references.toml` beside `defs.py`."""
    return Path(os.environ.get("TRACEBED_REFERENCES") or ROOT / "references.toml")


def references() -> list[Reference]:
    """What the file says; none where there is no such file.

    Raises
    ------
    ReferencesError
        Naming the file and what was found there.
    """
    path = references_file()
    if not path.exists():
        return []
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ReferencesError(f"{path} cannot be read as TOML: {error}") from error
    given = content.get("reference", [])
    if set(content) - {"reference"} or not isinstance(given, list):
        raise ReferencesError(f"{path}: found {sorted(content)}, expected only tables [[reference]]")
    return [_reference(path, number, each) for number, each in enumerate(given, 1)]


def _reference(path: Path, number: int, given: Any) -> Reference:
    kinds: dict[str, Any] = {each.name: each.type for each in fields(Reference)}
    fits = isinstance(given, dict) and set(given) == set(kinds)
    fits = fits and all(type(value) is kinds[name] for name, value in given.items())
    if not fits or not 0 <= given["successes"] <= given["n"] or given["n"] < 1:
        expected = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise ReferencesError(
            f"{path}: found reference {number} = {given!r}, expected exactly {expected}, and successes of n"
        )
    return Reference(**given)


def references_markdown(shown: Sequence[Reference]) -> str:
    """References as Markdown to stand below a table of results; empty where there are none."""
    from science.robots.statistics import wilson

    if not shown:
        return ""
    lines = [
        "",
        "",
        "**References: reported elsewhere, not measured here, on other tasks and seeds.**",
        "",
        "| reported policy | on | success | 95 % | source |",
        "|---|---|---:|---|---|",
    ]
    for each in shown:
        interval = wilson(each.successes, each.n)
        rate = f"{each.successes}/{each.n} = {each.successes / each.n:.3f}"
        cells = (each.policy, each.tasks, rate, f"{interval.low:.2f} to {interval.high:.2f}", each.source)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
