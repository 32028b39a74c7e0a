"""Plug-ins: entry points of a group by name, each loaded only when it is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

T = TypeVar("T")


def entries(group: str, what: str, error: type[ValueError]) -> dict[str, EntryPoint]:
    """The group's entry points by name, in order; ``what`` names one of them in messages.

    Raises
    ------
    error
        For a name that two packages claim.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise error(
                f"found two {what} of the name {entry.name!r}, {known.value} and {entry.value}; expected one: "
                "uninstall one of the packages that bring them"
            )
    return dict(sorted(found.items()))


def load(entry: EntryPoint, kind: type[T], what: str, error: type[ValueError]) -> T:
    """The value of an entry point.

    Raises
    ------
    error
        When it cannot be imported, or is of another kind.
    """
    try:
        value = entry.load()
    except (ImportError, AttributeError) as cause:
        raise error(
            f"the {what} {entry.name!r} could not be loaded from {entry.value}: {cause}; repair or remove its package"
        ) from cause
    if not isinstance(value, kind):
        raise error(
            f"found {type(value).__name__} at {entry.value}, expected a {kind.__name__} for {what} {entry.name!r}"
        )
    return value
