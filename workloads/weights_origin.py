"""Where the weights of a checkpoint come from, by its bytes and by what was written down of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provenance.weights.candidates import SCRATCH, Candidate
from provenance.weights.chain import AttemptEvidence
from provenance.weights.evidence import Verdict
from provenance.weights.fingerprint import Fingerprint, fingerprint
from provenance.weights.origin import judge_origin
from provenance.weights.readers import open_weights
from science.robots.policies.base import PolicySpec, called
from workloads.job import Job

UNREADABLE_WEIGHTS = {
    "base_weights": None,
    "base_verdict": str(Verdict.UNDETERMINED),
    "base_evidence": "its weights are not here: it is a server that is asked",
}


def origin_columns(
    job: Job, spec: PolicySpec, path: Path, settings: Mapping[str, Any], attempts: Sequence[AttemptEvidence]
) -> dict[str, str | None]:
    """The columns `base_weights`, `base_verdict` and `base_evidence` of a checkpoint.

    Candidates are the bases whose fingerprints are the job's input. What the settings name is the claim, where it is
    one of them: a checkpoint that was made from another base contradicts it.
    """
    stored = job.inputs("base_weights")
    candidates = [Candidate(name, Fingerprint.from_frame(each.frame()), (name,)) for name, each in stored.items()]
    claimed = settings.get("weight_loader")
    found = judge_origin(
        fingerprint(open_weights(path)),
        candidates,
        attempts,
        claimed=claimed if claimed in (*stored, SCRATCH) else None,
        untouched=_untouched(spec, settings),
    )
    return {"base_weights": found.base, "base_verdict": str(found.verdict), "base_evidence": found.sentence}


def _untouched(spec: PolicySpec, settings: Mapping[str, Any]) -> Sequence[str]:
    """Leaves that a training from a base leaves as they were; one from scratch has none."""
    if spec.frozen is None or settings.get("weight_loader") is None:
        return ()
    patterns: Sequence[str] = called(spec.frozen, settings)
    return patterns
