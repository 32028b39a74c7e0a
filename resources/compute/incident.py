"""A node failed: who was running there, who had ended before, and what cannot be said. Nothing is asked here.

A scheduler does not see a failure, it sees silence, and declares the node down later; `End` in the accounting of a job
that died with its node is that declaration. So a failure has a window, never a moment. Ended before the window:
innocent, as far as timestamps go. Running in it: present, which is not proof of guilt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

_DIED_WITH_THE_NODE = {"NODE_FAIL", "BOOT_FAIL"}
_CUT_SHORT = {*_DIED_WITH_THE_NODE, "CANCELLED"}
_NOT_ENDED = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", ""}


class IncidentError(ValueError):
    """A question about a node that has no answer: what was found, what was expected, what to do."""


class Verdict(StrEnum):
    """What the timestamps say of a job or step."""

    RUNNING_AT_FAILURE = "RUNNING_AT_FAILURE"
    UNCERTAIN = "UNCERTAIN"
    EXONERATED = "EXONERATED"
    BEGAN_AFTER = "BEGAN_AFTER"


SEVEREST_FIRST = tuple(Verdict)
_TOUCHES = (Verdict.RUNNING_AT_FAILURE, Verdict.UNCERTAIN)


@dataclass(frozen=True)
class Window:
    """The span of time in which the node failed, both ends included."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Failure:
    """A node that was declared down.

    Attributes
    ----------
    down, until : when it was declared, and when it was back (None: it is not, or nobody knows).
    reason, declared_by : as the scheduler has them.
    source : the command or files that say so.
    noticed : by the scheduler itself, as silence or a reboot; otherwise a person or a health check declared it, at a
        time of their choosing.
    """

    down: datetime
    until: datetime | None
    reason: str
    declared_by: str
    source: str
    noticed: bool = True


@dataclass(frozen=True)
class Ran:
    """A step on the node, or a job (``step`` is empty).

    Attributes
    ----------
    run : 0 for a job's first run, 1 after it was requeued once, ...
    work : asset and partition, for a job of ours.
    started_at, ended_at : UTC; None: the accounting has no such time.
    nodes : how many nodes the resources below are spread over; the share of one node is not recorded.
    """

    job: str
    step: str
    job_name: str
    user: str
    ours: bool
    state: str
    job_state: str
    started_at: datetime | None
    ended_at: datetime | None
    gpus: int = 0
    cpus: int | None = None
    memory_gb: float | None = None
    nodes: int = 1
    run: int = 0
    work: str = ""


@dataclass(frozen=True)
class Judged:
    """A step or job with what the timestamps say of it.

    ``margin_s`` is the distance to the window: from its end to the window's start, or from the window's end to its
    start; None where it touches the window.
    """

    ran: Ran
    verdict: Verdict
    margin_s: float | None
    note: str = ""


@dataclass(frozen=True)
class Resubmission:
    """A job of ours that met the failure, and what became of it. ``next_ending`` is empty while it runs."""

    job: str
    submission: int
    work: str
    ended_at: datetime | None
    detail: str
    next_submission: int | None
    next_node: str
    next_ending: str


@dataclass(frozen=True)
class LeftOut:
    """A node that the platform left out after the failure."""

    since: datetime
    until: datetime
    reason: str
    job: str


@dataclass(frozen=True)
class Incident:
    """One failure of one node.

    Attributes
    ----------
    window_because : how the window follows from the declaration, in words.
    judged : everything known to have been on the node around the failure, severest verdict first.
    limits : what could not be seen, in sentences.
    node_now : the node's present state, as names and values.
    """

    site: str
    node: str
    failure: Failure
    window: Window
    window_because: str
    judged: tuple[Judged, ...]
    limits: tuple[str, ...] = ()
    node_now: Mapping[str, str] = field(default_factory=dict)
    resubmissions: tuple[Resubmission, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def of(self, verdict: Verdict) -> list[Judged]:
        """Steps and jobs with a verdict."""
        return [each for each in self.judged if each.verdict == verdict]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of table `incident`: a step (or a job without step rows) each."""
        return [
            {
                "site": self.site,
                "node": self.node,
                "job": each.ran.job,
                "step": each.ran.step,
                "job_name": each.ran.job_name,
                "user": each.ran.user,
                "ours": each.ran.ours,
                "state": each.ran.state,
                "started_at": each.ran.started_at,
                "ended_at": each.ran.ended_at,
                "verdict": each.verdict.value,
                "margin_s": each.margin_s,
                "gpus": each.ran.gpus,
                "cpus": each.ran.cpus,
                "memory_gb": each.ran.memory_gb,
                "window_start": self.window.start,
                "window_end": self.window.end,
            }
            for each in self.judged
        ]

    def markdown(self) -> str:
        """The report, for a reader who knows nothing of the platform."""
        from resources.compute.incident_report import markdown  # it imports this module

        return markdown(self)


def failure_window(down: datetime, slurmd_timeout_s: float, message_timeout_s: float) -> Window:
    """When a node failed that Slurm declared down at ``down`` because it did not answer.

    Slurm asks its nodes every SlurmdTimeout / 3 and declares one down at the first round whose PREVIOUS round came at
    least SlurmdTimeout after the node's last answer (slurmctld/ping_nodes.c): up to SlurmdTimeout + 2 rounds after it.
    A round that waits for a dead node can take MessageTimeout longer. 1 s: recorded times are whole seconds. Measured
    with SlurmdTimeout = 15 s: 19 to 27 s, the 27 with a job that was being launched then; 4/3 x SlurmdTimeout + 1 s
    would be 21, and would exonerate who was there.
    """
    longest_s = 5 / 3 * slurmd_timeout_s + 2 * message_timeout_s + 1
    return Window(down - timedelta(seconds=longest_s), down)


def choose_failure(failures: Sequence[Failure], at: datetime | None) -> Failure | None:
    """The last failure, or the last one that was declared by ``at``; None where there is none."""
    known = [each for each in joined(failures) if at is None or each.down <= at]
    return known[-1] if known else None


def joined(failures: Sequence[Failure]) -> list[Failure]:
    """Failures in order; entries that follow each other without a pause (another reason was written) are one."""
    found: list[Failure] = []
    for each in sorted(failures, key=lambda failure: failure.down):
        last = found[-1] if found else None
        if last and last.until and each.down <= last.until + timedelta(seconds=1):
            found[-1] = replace(last, until=max(last.until, each.until) if each.until else None)
        else:
            found.append(each)
    return found


def judge_all(everything: Sequence[Ran], window: Window, noticed: bool = True) -> tuple[Judged, ...]:
    """Steps, and jobs where their steps do not tell: without step rows, or where the job held the node longer.

    Where the failure was not ``noticed`` by the scheduler itself, its moment is not known, and nobody is exonerated.
    """
    runs: dict[tuple[str, int], list[Ran]] = {}
    for ran in everything:
        runs.setdefault((ran.job, ran.run), []).append(ran)
    found = [judged for each in runs.values() for judged in _of_run(each, window)]
    found = found if noticed else [_not_exonerated(each) for each in found]
    order = {verdict: number for number, verdict in enumerate(SEVEREST_FIRST)}
    return tuple(
        sorted(found, key=lambda each: (order[each.verdict], each.ran.started_at, each.ran.job, each.ran.step))
    )


def _of_run(run: Sequence[Ran], window: Window) -> Iterator[Judged]:
    steps = [judged for ran in run if ran.step and (judged := judge(ran, window))]
    yield from steps
    severest = min((SEVEREST_FIRST.index(each.verdict) for each in steps), default=len(SEVEREST_FIRST))
    for judged in (judge(ran, window) for ran in run if not ran.step):
        if judged is None:
            continue
        if not steps:
            yield judged
        elif judged.verdict in _TOUCHES and SEVEREST_FIRST.index(judged.verdict) < severest:
            note = "the job held the node, but no step of it is known to have run so long"
            yield replace(judged, note="; ".join(part for part in (note, judged.note) if part))


def _not_exonerated(judged: Judged) -> Judged:
    if judged.verdict != Verdict.EXONERATED:
        return judged
    note = "it ended before the declaration, but how long before it the node failed is not known"
    return replace(judged, verdict=Verdict.UNCERTAIN, margin_s=None, note=note)


def judge(ran: Ran, window: Window) -> Judged | None:
    """What the timestamps say of a step or job; None for one that never began."""
    began, ended = ran.started_at, ran.ended_at
    if began is None:
        return None
    if ended is not None and ended < began:
        return Judged(
            ran, Verdict.UNCERTAIN, None, "its recorded end lies before its start: the times are not to be used"
        )
    if began > window.end:
        return Judged(ran, Verdict.BEGAN_AFTER, (began - window.end).total_seconds())
    if ended is not None and ended < window.start:
        return Judged(ran, Verdict.EXONERATED, (window.start - ended).total_seconds())
    verdict, note = _at_the_failure(ran, window)
    if began > window.start:
        note = "; ".join(part for part in (note, "it began inside the window, perhaps after the failure") if part)
    return Judged(ran, verdict, None, note)


def _at_the_failure(ran: Ran, window: Window) -> tuple[Verdict, str]:
    if ran.ended_at is None:
        if ran.state in _NOT_ENDED | _DIED_WITH_THE_NODE:
            return Verdict.RUNNING_AT_FAILURE, "no end is recorded"
        return Verdict.UNCERTAIN, f"it is {ran.state}, and no end is recorded"
    if ran.ended_at >= window.end:
        return Verdict.RUNNING_AT_FAILURE, ""
    if ran.state in _DIED_WITH_THE_NODE or (ran.job_state in _DIED_WITH_THE_NODE and ran.state in _CUT_SHORT):
        return Verdict.RUNNING_AT_FAILURE, "it was ended because its node failed"
    return Verdict.UNCERTAIN, "it ended inside the window: before, with or after the failure"
