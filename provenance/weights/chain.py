"""What logs and configurations say of where a training began, followed through its attempts.

A resumed attempt goes on from the weights of the one before it: openpi does not call the weight loader then, so its
configuration says nothing of where they came from. What counts is the last attempt that began afresh. Whether one did
is told by its log, if there is one, before what it was meant to do: `--resume` on a directory that is missing begins
afresh, silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from provenance.weights.candidates import SCRATCH, Candidate, recognise
from provenance.weights.evidence import Evidence, Level, Says
from provenance.weights.openpi_log import LoaderSetting, LogFacts

FRESH, RESUME = "fresh", "resume"


@dataclass(frozen=True)
class AttemptEvidence:
    """What was kept of one training attempt.

    Attributes
    ----------
    name : names the attempt.
    intent : `fresh` or `resume`, as it was started; None where that is not known.
    resumed_from : the attempt that it was to go on from; None where that is not known, and for a fresh one.
    config : weight loader of its resolved configuration; None where that was not kept.
    log : what its log says; None where it was not kept.
    directory : where it writes its checkpoints; None where that is not known.
    """

    name: str
    intent: str | None = None
    resumed_from: str | None = None
    config: LoaderSetting | None = None
    log: LogFacts | None = None
    directory: str | None = None


@dataclass
class Documented:
    """What the documents of a chain say.

    Attributes
    ----------
    named : for each document that counts, the candidate or `scratch` that it names; None where it names none of them.
    evidence : every document, whether it counts or not.
    gap : why the beginning cannot be told; empty where it can.
    """

    named: list[str | None] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    gap: str = "nothing is known of the training"

    @property
    def origin(self) -> str | None:
        """The candidate, or `scratch`, that all documents that count name; None where they do not."""
        return self.named[0] if not self.gap and len(set(self.named)) == 1 else None

    @property
    def disagreement(self) -> tuple[str, ...]:
        """What documents of the beginning name, where they do not name the same."""
        known = sorted({name or "no candidate" for name in self.named})
        return tuple(known) if not self.gap and len(known) > 1 else ()


def follow(attempts: Sequence[AttemptEvidence], candidates: Sequence[Candidate]) -> Documented:
    """Follow a chain of attempts, oldest first, to where its weights began."""
    found = Documented()
    for index, attempt in enumerate(attempts):
        before = attempts[index - 1] if index else None
        began, why = _began(attempt, attempts)
        if began == FRESH:
            found.named, found.gap = [], ""
            if index:
                found.evidence.append(_chain(attempt, why, "it began afresh: what was before it does not count"))
            _judge_config(found, attempt, candidates, why)
            _judge_log(found, attempt, attempts, candidates)
        elif began == RESUME:
            _judge_resumed(found, attempt, before, why)
        else:
            found.gap = found.gap if index and found.gap else f"it is not known whether {attempt.name} began afresh"
            found.named = []
            if attempt.config is not None:
                why = "a loader counts for a fresh attempt only: give its log, or say in the configuration how it began"
                found.evidence.append(_nothing(Level.CONFIG, attempt, _loader(attempt.config), why))
    return found


def _began(attempt: AttemptEvidence, attempts: Sequence[AttemptEvidence]) -> tuple[str | None, str]:
    """Whether an attempt began afresh or went on, and how that is known."""
    log, meant = attempt.log or LogFacts(), attempt.intent
    if meant is None and attempt.config is not None and attempt.config.resume is not None:
        meant = RESUME if attempt.config.resume else FRESH
    told, why = meant, f"it was started as {meant}" if meant else "nothing says how it was started"
    if log.resume_aborted:
        told, why = FRESH, "its log says that it found no checkpoint to resume from"
    elif log.restored:
        fresh = [place for place in log.restored if not _of_a_run(place, attempts)]
        told = FRESH if fresh else RESUME
        why = f"its log restores {fresh[-1]}, which is no step of its run" if fresh else "its log restores its own run"
    elif log.scratch or log.first_step == 0:
        told, why = FRESH, "its log says that no weights were loaded" if log.scratch else "its log begins at step 0"
    elif log.first_step is not None and meant is None:
        told, why = RESUME, f"its log begins at step {log.first_step}"
    return told, why if meant in (None, told) else f"{why}, although it was started as {meant}"


def _of_a_run(place: str, attempts: Sequence[AttemptEvidence]) -> bool:
    """Whether a place is `<directory of a run>/<step>`; a base is restored from its item `params`."""
    last = _last(place)
    known = [each.directory.rstrip("/") + "/" for each in attempts if each.directory]
    return last.isdigit() or (last != "params" and any(place.startswith(directory) for directory in known))


def _judge_config(
    found: Documented, attempt: AttemptEvidence, candidates: Sequence[Candidate], fresh_because: str
) -> None:
    if attempt.config is None:
        return
    because = f"a fresh attempt starts from what its loader loads; {fresh_because}"
    said = _loader(attempt.config)
    if attempt.config.place is None:
        found.named.append(SCRATCH)
        found.evidence.append(Evidence(Level.CONFIG, attempt.name, said, Says.SUPPORTS, SCRATCH, because))
    else:
        _judge_place(found, Level.CONFIG, attempt, attempt.config.place, said, candidates, because)


def _judge_log(
    found: Documented, attempt: AttemptEvidence, attempts: Sequence[AttemptEvidence], candidates: Sequence[Candidate]
) -> None:
    if attempt.log is None:
        return
    fresh = dict.fromkeys(place for place in attempt.log.restored if not _of_a_run(place, attempts))
    for place in fresh:
        _judge_place(found, Level.LOG, attempt, place, f"restored {place}", candidates, "what was read at the start")
    if not fresh and attempt.log.scratch:
        found.named.append(SCRATCH)
        said, why = "no weights loaded, training from scratch", "the loader itself says so"
        found.evidence.append(Evidence(Level.LOG, attempt.name, said, Says.SUPPORTS, SCRATCH, why))
    elif not fresh:
        why = "a line that is not there proves nothing: logs are cut and filtered"
        found.evidence.append(_nothing(Level.LOG, attempt, "no restore line", why))


def _judge_place(
    found: Documented,
    level: Level,
    attempt: AttemptEvidence,
    place: str,
    said: str,
    candidates: Sequence[Candidate],
    because: str,
) -> None:
    match = recognise(place, candidates)
    same = {each.fingerprint.digest for each in candidates if each.name in match.names}
    if match.names and len(same) == 1:
        by = "its path" if match.by == "path" else "the end of its path"
        name = match.names[0]
        found.named.append(name)
        found.evidence.append(
            Evidence(level, attempt.name, said, Says.SUPPORTS, name, f"{because}; recognised by {by}")
        )
        return
    found.named.append(None)
    if match.names:
        why = f"that path does not tell {', '.join(match.names)} apart"
    else:
        why = "that path is of no candidate: give it as one, or register it with that path or source"
    found.evidence.append(_nothing(level, attempt, said, why))


def _judge_resumed(found: Documented, attempt: AttemptEvidence, before: AttemptEvidence | None, why: str) -> None:
    if attempt.config is not None:
        reason = f"a resumed attempt does not call its loader, and goes on from the weights of its run; {why}"
        found.evidence.append(_nothing(Level.CONFIG, attempt, _loader(attempt.config), reason))
    gap = _missing_link(attempt, before)
    if gap:
        found.named, found.gap = [], gap
        found.evidence.append(_chain(attempt, why, f"{gap}: what its weights began with cannot be told from documents"))
    elif before is not None:
        found.evidence.append(_chain(attempt, why, f"it inherits where {before.name} began"))


def _missing_link(attempt: AttemptEvidence, before: AttemptEvidence | None) -> str:
    """What is missing between a resumed attempt and the one before it; empty where nothing is."""
    if before is None:
        source = f"from {attempt.resumed_from}" if attempt.resumed_from else "from an attempt that is not known"
        return f"{attempt.name} was resumed {source}, of which nothing was kept"
    if attempt.resumed_from not in (None, before.name):
        return f"{attempt.name} was resumed from {attempt.resumed_from}, which is not among the attempts before it"
    restored = attempt.log.restored if attempt.log else ()
    own = attempt.directory if attempt.resumed_from == before.name else None  # a step that was copied to go on from
    runs = {_last(directory) for directory in (before.directory, own) if directory}
    if restored and before.directory and _last(restored[0].rstrip("/").rpartition("/")[0]) not in runs:
        return f"{attempt.name} restored {restored[0]}, which is not in {before.directory} of {before.name}"
    return ""


def _last(path: str) -> str:
    """The last part of a path: the same folder may be mounted elsewhere in another job."""
    return path.rstrip("/").rpartition("/")[2]


def _loader(config: LoaderSetting) -> str:
    said = f"weight loader {config.place}" if config.place else "no weight loader"
    return f"{said}, in configuration {config.config_name!r} (a name is no evidence)" if config.config_name else said


def _chain(attempt: AttemptEvidence, found: str, why: str) -> Evidence:
    return _nothing(Level.CHAIN, attempt, found, why)


def _nothing(level: Level, attempt: AttemptEvidence, found: str, why: str) -> Evidence:
    return Evidence(level, attempt.name, found, Says.NOTHING, None, why)
