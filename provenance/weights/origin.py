"""The verdict on where weights come from, from four kinds of evidence.

The ladder: bytes that are equal (fingerprint), then what the log says was restored and what the resolved configuration
of the FRESH attempt loads, followed through the chain of attempts. Bytes win where they decide; a disagreement is said.
PROVEN means that the weights descend from that candidate, be it through a sibling that was not among the candidates.
The NAME of a configuration or checkpoint is never evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from provenance.weights.candidates import SCRATCH, Candidate
from provenance.weights.chain import AttemptEvidence, Documented, follow
from provenance.weights.comparison import Comparison, compare
from provenance.weights.evidence import Evidence, Level, Says, Verdict
from provenance.weights.fingerprint import Fingerprint
from provenance.weights.leaf_evidence import counts, leaf_evidence, named, unchanged


@dataclass(frozen=True)
class OriginVerdict:
    """Where weights come from.

    Attributes
    ----------
    verdict : of the claim where there is one, else of the origin as a whole.
    base : the candidate that is proven, or `scratch`; None where none is.
    claimed : what was claimed; None without a claim.
    sentence : all of it in words.
    of_each : verdict of every candidate, and of `scratch`.
    evidence : every piece, nearest to the bytes first.
    conflict : which kinds of evidence disagree, and which of them counts; empty where none do.
    leaves : how the leaves compare.
    deciding : names of the leaves that decided it; empty where documents did, or nothing.
    """

    verdict: Verdict
    base: str | None
    claimed: str | None
    sentence: str
    of_each: Mapping[str, Verdict]
    evidence: tuple[Evidence, ...]
    conflict: str
    leaves: Comparison
    deciding: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge_origin(
    checkpoint: Fingerprint,
    candidates: Sequence[Candidate],
    attempts: Sequence[AttemptEvidence] = (),
    *,
    claimed: str | None = None,
    untouched: Collection[str] = (),
) -> OriginVerdict:
    """Judge where a checkpoint's weights come from.

    Parameters
    ----------
    candidates : bases that they may come from; `scratch` is always possible beside them, and alone.
    attempts : those that led to the checkpoint, oldest first, the one that wrote it last.
    claimed : a candidate's name, or `scratch`.
    untouched : patterns of leaves that were frozen: where one differs from a candidate's, that candidate is ruled out.

    Raises
    ------
    ValueError
        For candidates without names of their own, a claim that is none of them, or a pattern that no leaf fits.
    """
    names = [each.name for each in candidates]
    if len(set(names)) < len(names) or SCRATCH in names:
        raise ValueError(f"found candidates {names}, expected each of its own name, and none {SCRATCH!r}")
    if claimed not in (None, SCRATCH, *names):
        raise ValueError(f"found claim {claimed!r}, expected one of {[*names, SCRATCH]}: give it as a candidate, too")
    leaves = compare(checkpoint, candidates, untouched)
    documented = follow(attempts, candidates)
    decision = _decide(leaves, documented)
    of_each = {name: decision.of_group[leaves.group(name)] for name in (*names, SCRATCH)}
    verdict = of_each[claimed] if claimed else decision.overall
    subject = f"{claimed} is {verdict}" if claimed else str(verdict)
    return OriginVerdict(
        verdict,
        decision.base,
        claimed,
        f"{subject}: {_reason(leaves, documented, decision)}",
        of_each,
        (*leaf_evidence(leaves), *_documents(documented.evidence, leaves, claimed)),
        _conflict(leaves, documented),
        leaves,
        _deciding(leaves, decision, leaves.group(claimed) if claimed else None),
    )


@dataclass(frozen=True)
class _Decision:
    """The verdict of each group of candidates and of scratch; which is proven, and whether by its bytes."""

    of_group: Mapping[str, Verdict]
    base: str | None
    by_bytes: bool

    @property
    def overall(self) -> Verdict:
        candidates = {verdict for group, verdict in self.of_group.items() if group != SCRATCH}
        if self.base is None and candidates == {Verdict.CONTRADICTED}:
            return Verdict.CONTRADICTED
        return Verdict.UNDETERMINED if self.base is None else Verdict.PROVEN


def _decide(leaves: Comparison, documented: Documented) -> _Decision:
    said = leaves.group(documented.origin) if documented.origin else None
    excluded = {group for group, differ in leaves.broken.items() if differ}
    if leaves.any_equal:
        excluded |= {SCRATCH}
    if leaves.any_equal and leaves.fitting:
        excluded |= set(leaves.groups) - set(leaves.fitting)
    open_to = [group for group in leaves.fitting if group not in excluded]
    base, by_bytes = None, False
    if leaves.any_equal and len(open_to) == 1:
        base, by_bytes = open_to[0], True
    elif said in open_to or (said == SCRATCH and not leaves.any_equal and not leaves.shared):
        base = said
        excluded |= {*leaves.groups, SCRATCH}
    elif leaves.whole in open_to:
        base, by_bytes = leaves.whole, True
        excluded |= {SCRATCH}
    of_group = {
        group: Verdict.CONTRADICTED if group in excluded else Verdict.UNDETERMINED
        for group in (*leaves.groups, SCRATCH)
    }
    return _Decision(of_group | ({base: Verdict.PROVEN} if base else {}), base, by_bytes)


def _documents(evidence: Sequence[Evidence], leaves: Comparison, claimed: str | None) -> list[Evidence]:
    """Documents, the nearest to the bytes first; what names another than was claimed contradicts the claim."""
    order = {level: rank for rank, level in enumerate(Level)}
    pieces = sorted(evidence, key=lambda each: order[each.level])
    if claimed is None:
        return pieces
    return [
        Evidence(each.level, each.attempt, each.found, Says.CONTRADICTS, claimed, f"it names {each.about}; {each.why}")
        if each.says is Says.SUPPORTS and each.about and leaves.group(each.about) != leaves.group(claimed)
        else each
        for each in pieces
    ]


def _reason(leaves: Comparison, documented: Documented, decision: _Decision) -> str:
    if decision.base is None:
        return "; ".join([counts(leaves), *_open(leaves), *_undocumented(documented)])
    if decision.by_bytes:
        return f"the weights are of {named(leaves, decision.base)}: {counts(leaves)}"
    began = "from scratch" if decision.base == SCRATCH else f"from {named(leaves, decision.base)}"
    return f"training began {began}, as its documents say; {counts(leaves)}"


def _open(leaves: Comparison) -> list[str]:
    """Why the bytes do not decide."""
    told = [
        f"{len(differ)} frozen leaves are not of {group}, which rules it out"
        for group, differ in leaves.broken.items()
        if differ
    ]
    if leaves.any_equal and not leaves.fitting:
        told.append("no candidate explains all of them: weights were merged, or a candidate is missing")
    elif leaves.any_equal:
        told.append(f"{' and '.join(leaves.fitting)} share those that are unchanged")
    elif leaves.shared and len(leaves.groups) == 1:
        told.append("nothing tells this candidate from siblings that share these leaves: give them, too")
    elif leaves.shared:
        told.append("these do not tell the candidates apart")
    elif leaves.comparable:
        told.append("training may have changed every leaf")
    return told


def _undocumented(documented: Documented) -> list[str]:
    """Why the documents do not decide."""
    if documented.disagreement:
        return [f"documents name {' and '.join(documented.disagreement)}"]
    if documented.gap:
        return [documented.gap]
    return [] if documented.origin else ["no document of the beginning names a candidate"]


def _conflict(leaves: Comparison, documented: Documented) -> str:
    """Which kinds of evidence disagree; empty where none do."""
    if documented.disagreement:
        return f"log and configuration disagree: they name {' and '.join(documented.disagreement)}"
    if documented.origin is None:
        return ""
    said = leaves.group(documented.origin)
    if said == SCRATCH and not leaves.any_equal and leaves.shared:
        return (
            f"documents say scratch, and {len(leaves.shared)} leaves equal every candidate's: constants of this kind "
            "of model, or no scratch"
        )
    if leaves.broken.get(said):
        return f"documents name {said}, and leaves that were frozen are not its: the bytes count"
    if leaves.any_equal and said not in leaves.fitting:
        return f"documents name {said}, and {unchanged(leaves)}: the bytes count"
    return ""


def _deciding(leaves: Comparison, decision: _Decision, claimed: str | None) -> tuple[str, ...]:
    """Leaves behind the verdict: those that prove the base, or else those that speak against the claim."""
    if decision.base is not None:
        proving = leaves.equal.get(decision.base) or leaves.shared
        return tuple(proving) if decision.by_bytes else ()
    against = [name for group in leaves.fitting if group != claimed for name in leaves.equal[group]]
    if claimed and decision.of_group[claimed] is Verdict.CONTRADICTED:
        return leaves.broken.get(claimed) or tuple(dict.fromkeys(against))
    return tuple(dict.fromkeys(name for differ in leaves.broken.values() for name in differ))
