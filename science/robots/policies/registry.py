"""Finds policies by name. A policy is an entry point of the group `tracebed.policies` whose value is a `PolicySpec`.

Loading a spec imports nothing heavy; the policy itself is imported when it is made.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points

from science.robots.policies.base import PolicyError, PolicySpec

GROUP = "tracebed.policies"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _entries() -> dict[str, EntryPoint]:
    """The group's entry points by name; a name that two packages claim is refused."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise PolicyError(
                f"found two policies of the name {entry.name!r}, {known.value} and {entry.value}; expected one: "
                f"uninstall one of the packages that bring them"
            )
    return found


def _load(entry: EntryPoint) -> PolicySpec:
    try:
        spec = entry.load()
    except (ImportError, AttributeError) as error:
        raise PolicyError(
            f"the policy {entry.name!r} could not be loaded from {entry.value}: {error}; repair or remove its package"
        ) from error
    if not isinstance(spec, PolicySpec):
        raise PolicyError(f"found {type(spec).__name__} at {entry.value}, expected a PolicySpec named {entry.name!r}")
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
    return {name: _load(entry) for name, entry in sorted(_entries().items())}


def find_policy(name: str) -> PolicySpec:
    """The policy of a name; other policies are not loaded.

    Raises
    ------
    PolicyError
        When none is installed under it, naming those that are.
    """
    entries = _entries()
    if name not in entries:
        raise PolicyError(
            f"found no policy {name!r}, expected one of {sorted(entries)}; a policy is installed by a package with an "
            f"entry point in {GROUP!r}"
        )
    return _load(entries[name])
