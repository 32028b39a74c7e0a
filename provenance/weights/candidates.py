"""A checkpoint that weights may come from, and how a path in a log or a configuration is recognised as one.

The same base has many paths: an address it was published at, a cache, a copy on a cluster. What is compared is the
whole path, or else its end: `gs://assets/checkpoints/pi05_base/params` and `/lab/cache/pi05_base` both end in
`pi05_base`; a step of a run ends in `<config>/<run>/<step>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from provenance.weights.fingerprint import Fingerprint

SCRATCH = "scratch"
"""The origin of weights that began without any: a possible answer beside every candidate."""

_ITEMS = ("params", "default", "model.safetensors")
_FILE_ENDING = re.compile(r"\.(pt|pth|safetensors)$")


@dataclass(frozen=True)
class Candidate:
    """A base that weights may come from.

    Attributes
    ----------
    name : how verdicts call it.
    fingerprint : of its weights.
    places : paths and addresses that it is known at.
    """

    name: str
    fingerprint: Fingerprint
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognised:
    """Candidates that a path names, and by what: `path` (the whole of it), `folder` (its end), or nothing."""

    names: tuple[str, ...]
    by: str = ""


def recognise(place: str, candidates: Sequence[Candidate]) -> Recognised:
    """The candidates that a path names; several where it does not tell them apart."""
    whole, end = _parts(place), _end(place)
    exact = [each.name for each in candidates if whole in [_parts(known) for known in each.places]]
    if exact:
        return Recognised(tuple(exact), "path")
    ends = [each.name for each in candidates if end and end in [_end(known) for known in (*each.places, each.name)]]
    return Recognised(tuple(ends), "folder" if ends else "")


def _parts(place: str) -> tuple[str, ...]:
    """Parts of a path or an address, without its item `params` or `default`, and without the ending of a file."""
    parts = [part for part in place.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    while len(parts) > 1 and parts[-1] in _ITEMS:
        parts.pop()
    return (*parts[:-1], _FILE_ENDING.sub("", parts[-1])) if parts else ()


def _end(place: str) -> tuple[str, ...]:
    """The last part; of a path that ends in a number, the two before it as well: runs of many names have step 29999."""
    parts = _parts(place)
    if not parts or not parts[-1].isdigit():
        return parts[-1:]
    return parts[-3:] if len(parts) > 2 else ()
