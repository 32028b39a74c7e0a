"""Leaves of a checkpoint held against those of its candidates: which are equal, and which of these tell anything.

A leaf DISCRIMINATES where the candidates differ in it. One that is constant (zeros, ones) or smaller than
`FEWEST_ELEMENTS` never counts: every model may hold it. A leaf that is not equal says nothing by itself: training
changed it, or it never was that candidate's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from provenance.weights.candidates import Candidate
from provenance.weights.fingerprint import Fingerprint, LeafFingerprint

FEWEST_ELEMENTS = 16
"""Below this, trained values may meet by chance in bfloat16: near 1 it has steps of 0.4 and 0.8 %."""


@dataclass(frozen=True)
class Comparison:
    """What the leaves say.

    Attributes
    ----------
    same_weights : candidates with identical weights, grouped; by the first name of a group it is called below.
    whole : the group whose every leaf the checkpoint has unchanged, whatever it has beside them (LoRA); None without.
    discriminating : leaves in which the candidates differ, of those that the checkpoint has.
    equal : group -> discriminating leaves that are equal to the checkpoint's.
    shared : floating leaves that are equal to every candidate's, and tell them not apart.
    fitting : groups that explain every discriminating leaf that is equal to any; all where none is, empty where no one
        explains all.
    broken : group -> leaves that training cannot have changed, and that differ from it.
    comparable : leaves that any candidate has in the same shape.
    constant, small : leaves of these that are left out because they are constant, or too small.
    """

    same_weights: tuple[tuple[str, ...], ...]
    whole: str | None
    discriminating: tuple[str, ...]
    equal: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...]
    fitting: tuple[str, ...]
    broken: Mapping[str, tuple[str, ...]]
    comparable: int
    constant: int
    small: int

    @property
    def groups(self) -> tuple[str, ...]:
        """The first name of each group."""
        return tuple(names[0] for names in self.same_weights)

    @property
    def any_equal(self) -> bool:
        """Whether any discriminating leaf is equal to any candidate's."""
        return any(self.equal.values())

    def group(self, name: str) -> str:
        """The first name of a candidate's group; `scratch` is its own."""
        return next((names[0] for names in self.same_weights if name in names), name)


def compare(checkpoint: Fingerprint, candidates: Sequence[Candidate], untouched: Collection[str] = ()) -> Comparison:
    """Hold a checkpoint's leaves against those of its candidates.

    Parameters
    ----------
    untouched : patterns (`llm/*`) of leaves that training cannot have changed, because they were frozen.

    Raises
    ------
    ValueError
        For a pattern that no leaf has.
    """
    grouped: dict[str, list[Candidate]] = {}
    for each in candidates:
        grouped.setdefault(each.fingerprint.digest, []).append(each)
    groups = {members[0].name: members[0].fingerprint for members in grouped.values()}
    same = tuple(tuple(each.name for each in members) for members in grouped.values())
    held = {name: _held(leaf, groups) for name, leaf in checkpoint.items()}
    comparable = [name for name, by in held.items() if by]
    constant = [name for name in comparable if _constant(checkpoint[name], held[name])]
    small = [name for name in comparable if name not in set(constant) and checkpoint[name].elements < FEWEST_ELEMENTS]
    telling = [name for name in comparable if name not in {*constant, *small}]
    discriminating = [name for name in telling if not _all_alike(held[name], len(groups))]
    equal = {
        group: tuple(name for name in discriminating if held[name].get(group) == checkpoint[name]) for group in groups
    }
    votes = [{group for group in groups if held[name].get(group) == checkpoint[name]} for name in discriminating]
    fitting = tuple(group for group in groups if all(group in vote for vote in votes if vote))
    shared = [
        name
        for name in telling
        if name not in set(discriminating) and checkpoint[name].floating and checkpoint[name] in held[name].values()
    ]
    frozen = _frozen(checkpoint, untouched)
    broken = {
        group: tuple(name for name in frozen if group in held[name] and held[name][group] != checkpoint[name])
        for group in groups
    }
    return Comparison(
        same,
        _whole(checkpoint, groups, set(telling)),
        tuple(discriminating),
        equal,
        tuple(shared),
        fitting,
        broken,
        len(comparable),
        len(constant),
        len(small),
    )


def _held(leaf: LeafFingerprint, groups: Mapping[str, Fingerprint]) -> dict[str, LeafFingerprint]:
    """The leaf of each candidate that has it in the same shape."""
    return {
        group: its[leaf.leaf]
        for group, its in groups.items()
        if leaf.leaf in its and its[leaf.leaf].shape == leaf.shape
    }


def _whole(checkpoint: Fingerprint, groups: Mapping[str, Fingerprint], telling: Collection[str]) -> str | None:
    kept = [
        (len(its), group)
        for group, its in groups.items()
        if all(name in checkpoint and checkpoint[name] == leaf for name, leaf in its.items())
        and any(name in telling for name in its)
    ]
    return max(kept)[1] if kept else None


def _constant(leaf: LeafFingerprint, held: Mapping[str, LeafFingerprint]) -> bool:
    return leaf.constant or all(each.constant for each in held.values())


def _all_alike(held: Mapping[str, LeafFingerprint], n_groups: int) -> bool:
    return len(held) == n_groups and len({each.sha256_bf16 for each in held.values()}) == 1


def _frozen(checkpoint: Fingerprint, untouched: Collection[str]) -> list[str]:
    """Leaves that a pattern names, in order."""
    for pattern in untouched:
        if not any(fnmatchcase(name, pattern) for name in checkpoint):
            raise ValueError(
                f"found no leaf that fits {pattern!r}, expected some that training cannot have changed; the leaves "
                f"are {', '.join(list(checkpoint)[:8])}, ..."
            )
    return [name for name in checkpoint if any(fnmatchcase(name, pattern) for pattern in untouched)]
