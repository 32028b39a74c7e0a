"""Why a value is not replayed. What is replayed and comes out different is no error: it is the result."""

from __future__ import annotations


class ReplayRefused(ValueError):
    """A value that cannot be computed again from its record: something that it names is not there, or not the same."""


class ReplayFailed(ValueError):
    """A replay that ended before there was anything to compare."""
