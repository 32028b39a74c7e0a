"""A replay in words: what it was, what differs now, and the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from replay.compare import ROWS, Comparison
from replay.environment import seconds_of, where_it_ran
from replay.run import Prepared, Replayed
from replay.verdict import Difference, Verdict

LONG_S = 30.0
"""From here on a replay says beforehand how long the recorded job took."""

_SHOWN_CHARACTERS = 160


def begun(prepared: Prepared) -> Iterator[str]:
    """What is replayed, and what is not as it was."""
    record, job = prepared.target.record, prepared.job
    yield f"{prepared.target.title}, published {record.recorded_at:%Y-%m-%d %H:%M:%S} UTC by run {record.run_id}"
    yield f"  {where_it_ran(prepared.target, job)}"
    yield f"  inputs: {len(record.inputs)}, all there with the recorded hashes"
    yield f"  configuration: {source_of(prepared)}"
    yield from differing(prepared.differs)
    took_s = seconds_of(job)
    if took_s is not None and took_s >= LONG_S:
        yield f"  computing it again will take about {took_s:.0f} s, as then"


def source_of(prepared: Prepared) -> str:
    """Where the configuration was read."""
    files = "; what came from recipes.toml or bases.toml, from the rows" if prepared.configuration.files else ""
    return prepared.configuration.source + files


def differing(found: Sequence[str]) -> Iterator[str]:
    """What is not as it was."""
    if not found:
        yield "  code and libraries: as recorded"
    for each in found:
        yield f"  differs: {each}"


def ended(replayed: Replayed) -> Iterator[str]:
    """The verdict, what it stands on, and where the two first differ."""
    comparison = replayed.comparison
    yield f"  computed again in {replayed.wall_s:.1f} s"
    for each in replayed.inputs_differ:
        yield f"  differs: {each}"
    yield from compared(comparison)
    yield from verdict(comparison.verdict, comparison.differences)
    if replayed.kept is not None:
        yield f"kept: {replayed.kept}"


def compared(comparison: Comparison) -> Iterator[str]:
    """What was held against what."""
    artifacts = ""
    if comparison.artifacts:
        artifacts = f", {comparison.artifacts} artifacts ({comparison.same_bytes} the same bytes)"
    yield f"  compared: {comparison.rows} rows x {len(comparison.columns)} columns{artifacts}"
    if comparison.volatile:
        yield f"  not compared, as its table declares: {', '.join(comparison.volatile)}"
    for which, names in (("now", comparison.only_recorded), ("then", comparison.only_replayed)):
        if names:
            yield f"  not compared, because the table does not have it {which}: {', '.join(names)}"


def verdict(reached: Verdict, differences: Sequence[Difference]) -> Iterator[str]:
    """The verdict and every difference behind it."""
    yield str(reached)
    for each in differences:
        yield f"  {told(each)}"


def told(each: Difference) -> str:
    """One difference as a sentence."""
    if each.where == ROWS:
        return f"{each.count} of {each.of} rows are {each.column}: {each.replayed}"
    allowed = "" if each.tolerance is None else f" (within the declared {each.tolerance:g})"
    return (
        f"{each.column}: {_shown(each.recorded)} then, {_shown(each.replayed)} now, at {each.where}; "
        f"{each.count} of {each.of} rows differ{allowed}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
