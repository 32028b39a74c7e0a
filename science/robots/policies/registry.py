"""Finds policies by name. A policy is an entry point of the group `tracebed.policies` whose value is a `PolicySpec`.

Loading a spec imports nothing heavy; the policy itself is imported when it is made.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

from science.robots.entries import entries, load
from science.robots.policies.base import PolicyError, PolicySpec

GROUP = "tracebed.policies"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _entries() -> dict[str, EntryPoint]:
    return entries(GROUP, "policies", PolicyError)


def _load(entry: EntryPoint) -> PolicySpec:
    spec = load(entry, PolicySpec, "policy", PolicyError)
    if spec.name != entry.name or not _NAME.fullmatch(spec.name):
        raise PolicyError(
            f"found policy {spec.name!r} at {entry.value}, expected the entry point's name {entry.name!r}, which "
            f"begins with a lower-case letter and has only lower-case letters, digits and _"
        )
    return spec


def policy_specs() -> dict[str, PolicySpec]:
    """Every installed policy by name.

    Raises
    ------
    PolicyError
        For a name that two packages claim, or an entry that is not a spec.
    """
    return {name: _load(entry) for name, entry in _entries().items()}


def find_policy(name: str) -> PolicySpec:
    """The policy of a name; other policies are not loaded.

    Raises
    ------
    PolicyError
        When none is installed under it, naming those that are.
    """
    known = _entries()
    if name not in known:
        raise PolicyError(
            f"found no policy {name!r}, expected one of {sorted(known)}; a policy is installed by a package with an "
            f"entry point in {GROUP!r}"
        )
    return _load(known[name])
