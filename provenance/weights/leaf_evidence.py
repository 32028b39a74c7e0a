"""What the comparison of leaves says of each candidate, in words."""

from __future__ import annotations

from collections.abc import Sequence

from provenance.weights.comparison import Comparison
from provenance.weights.evidence import Evidence, Level, Says


def leaf_evidence(leaves: Comparison) -> list[Evidence]:
    """A piece for each candidate; for identical candidates one more, and for frozen leaves that differ."""
    pieces = [_of_group(leaves, group) for group in leaves.groups]
    pieces += [
        _piece(
            f"{', '.join(names)} are the same weights, leaf for leaf",
            Says.NOTHING,
            None,
            "what holds of one holds of all",
        )
        for names in leaves.same_weights
        if len(names) > 1
    ]
    pieces += [
        _piece(
            f"{len(differ)} frozen leaves are not of {group} ({_some(differ)})",
            Says.CONTRADICTS,
            group,
            "training cannot have changed them",
        )
        for group, differ in leaves.broken.items()
        if differ
    ]
    return pieces


def _of_group(leaves: Comparison, group: str) -> Evidence:
    equal = len(leaves.equal[group])
    found = f"{equal} of {len(leaves.discriminating)} discriminating leaves equal {group}"
    alone = len(leaves.groups) == 1
    says, why = Says.NOTHING, "training may have changed every leaf"
    if leaves.whole == group:
        says, why = Says.SUPPORTS, "every leaf of it is there, unchanged"
    elif not leaves.comparable:
        why = "no leaf has the name and shape of one of a candidate: another model, or other names for its leaves"
    elif leaves.any_equal and not leaves.fitting:
        why = "no candidate explains all leaves that are equal to one"
    elif leaves.any_equal and group in leaves.fitting:
        others = [each for each in leaves.fitting if each != group]
        why = f"{' and '.join(others)} share these leaves" if others else "trained values do not meet by chance"
        says = Says.SUPPORTS
    elif leaves.any_equal:
        says, why = Says.CONTRADICTS, f"{unchanged(leaves)}, and not of {group}"
    elif leaves.shared:
        found = f"{len(leaves.shared)} of {leaves.comparable} leaves equal {group}" + (
            "" if alone else ", and every other candidate"
        )
        says = Says.SUPPORTS if alone else Says.NOTHING
        why = "siblings of it may share them" if alone else "they do not tell the candidates apart"
    return _piece(found, says, None if says is Says.NOTHING else group, why)


def counts(leaves: Comparison) -> str:
    """How many leaves equal which candidate's."""
    if not leaves.groups:
        return "there is no base to compare with"
    if not leaves.comparable:
        return "no leaf has the name and shape of one of a candidate"
    if leaves.whole and not leaves.any_equal:
        return f"every leaf of {leaves.whole} is there, unchanged"
    if not leaves.any_equal and leaves.shared:
        return f"{len(leaves.shared)} of {leaves.comparable} leaves equal {' and '.join(leaves.groups)}"
    ranked = sorted(leaves.groups, key=lambda group: -len(leaves.equal[group]))
    first, *others = (f"{len(leaves.equal[group])}" for group in ranked)
    told = [f"{first} of {len(leaves.discriminating)} discriminating leaves equal {ranked[0]}"]
    told += [f"{count} equal {group}" for count, group in zip(others, ranked[1:], strict=True)]
    return ", ".join(told)


def named(leaves: Comparison, group: str) -> str:
    """A candidate, with those that are the same weights."""
    names = next((names for names in leaves.same_weights if group in names), (group,))
    return group if len(names) == 1 else f"{group} (the same weights as {', '.join(names[1:])})"


def unchanged(leaves: Comparison) -> str:
    """Whose the discriminating leaves are that are equal to any candidate's."""
    holders = leaves.fitting or [group for group in leaves.groups if leaves.equal[group]]
    return f"what is unchanged is of {' and '.join(holders)}"


def _piece(found: str, says: Says, about: str | None, why: str) -> Evidence:
    return Evidence(Level.FINGERPRINT, None, found, says, about, why)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
