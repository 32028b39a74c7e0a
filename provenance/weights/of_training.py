"""Where a training of the platform began, by what the platform itself wrote down of its attempts.

Documents alone, so that a trace can say it at once; `tracebed weights origin` holds the bytes against candidates too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from home import Home
from io_managers.tables import DamagedPartition, MissingPartition, TableStore
from provenance.weights.bases import bases_file, load_bases, stored_fingerprint
from provenance.weights.candidates import Candidate
from provenance.weights.chain import AttemptEvidence, follow
from provenance.weights.evidence import Verdict
from provenance.weights.openpi_log import LoaderSetting, loader_setting


@dataclass(frozen=True)
class TrainingOrigin:
    """The origin of a training, by documents: PROVEN with its base (or `scratch`), or UNDETERMINED, and why."""

    verdict: Verdict
    base: str | None
    reason: str

    def sentence(self) -> str:
        """In words."""
        return f"{self.verdict} {self.base or ''}".strip() + f": {self.reason}"


def origin_of_training(home: Home, policy: str, task: str, attempt: str) -> TrainingOrigin:
    """Where the weights of an attempt began, through the attempts that it went on from.

    What cannot be read leaves it UNDETERMINED, with the reason: a training that has ended is published all the same.
    """
    try:
        return _origin(home, policy, task, attempt)
    except (ValueError, OSError, DamagedPartition) as problem:
        return TrainingOrigin(Verdict.UNDETERMINED, None, f"what was written down cannot be read: {problem}")


def _origin(home: Home, policy: str, task: str, attempt: str) -> TrainingOrigin:
    chain = attempts_before(home, policy, task, attempt)
    if not chain:
        return TrainingOrigin(Verdict.UNDETERMINED, None, f"nothing is known of the training {attempt}")
    store = TableStore(home.tables)
    stored = [(base, stored_fingerprint(base, store)) for base in load_bases(bases_file())]
    found = follow(chain, [Candidate(base.name, known, base.places) for base, known in stored if known is not None])
    if found.origin is None:
        told = [found.gap, *(each.line() for each in found.evidence)]
        return TrainingOrigin(Verdict.UNDETERMINED, None, "; ".join(each for each in told if each))
    told = [f"{each.found}, says the {each.level} of {each.attempt}" for each in found.evidence if each.about]
    return TrainingOrigin(Verdict.PROVEN, found.origin, "; ".join(told))


def attempts_before(home: Home, policy: str, task: str, attempt: str) -> list[AttemptEvidence]:
    """The attempts that led to one, oldest first, itself last; one of which nothing is left ends the chain."""
    found: list[AttemptEvidence] = []
    name: str | None = attempt
    while name is not None and name not in [each.name for each in found]:
        evidence = _evidence(home, policy, task, name)
        if evidence is None:
            break
        found.insert(0, evidence)
        name = evidence.resumed_from
    return found


def _evidence(home: Home, policy: str, task: str, name: str) -> AttemptEvidence | None:
    directory = home.training / policy / task / name
    described = directory / "attempt.json"
    if described.exists():
        content = json.loads(described.read_text())
        # A policy without this setting is always trained from scratch.
        config = loader_setting({"weight_loader": None, "intent": content["intent"], **content["settings"]})
        return AttemptEvidence(name, content["intent"], content["resumed_attempt"], config, directory=str(directory))
    try:
        row = TableStore(home.tables).partition("train_attempts", (policy, task, name)).frame().row(0, named=True)
    except MissingPartition:
        return None
    recorded = _recorded_setting(home, policy, task, name)
    return AttemptEvidence(name, row["intent"], row["resumed_from"], recorded, directory=row["directory"])


def _recorded_setting(home: Home, policy: str, task: str, name: str) -> LoaderSetting | None:
    """The loader of an attempt whose directory is gone, from the settings that its checkpoints were published with."""
    try:
        checkpoints = TableStore(home.tables).partition("checkpoint", (policy, task)).frame()
    except MissingPartition:
        return None
    for attempt, settings in checkpoints.select("attempt", "settings").iter_rows():
        if attempt == name:
            return loader_setting({"weight_loader": None, **json.loads(settings)})
    return None
