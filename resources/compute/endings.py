"""How a job ended, from its own files first and from what its site says second.

Only the job's own exit file can say that it succeeded: a scheduler calls a job COMPLETED whose disk was full. Only the
site can say that a node died, that somebody cancelled, or that a time limit struck.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from resources.compute.interface import Ending, State, Status
from resources.compute.job_directory import Launch, SubmissionDirectory

EXIT_PREFLIGHT = 95
FORGOTTEN = "forgotten"
"""The word for a job of which a site that was asked knows nothing."""
GPU_MEMORY = "the memory of its GPU was too small"
_EXIT_NO_ROOM, _EXIT_NO_PLACE, _EXIT_FENCED = 96, 97, 98
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_LOG_SIGNAL = 53  # Slurm's signal for a log or working directory that cannot be opened
_TAIL_BYTES = 4000

_MEMORY = re.compile(
    r"OutOfMemoryError|MemoryError|out of memory|exceeded (?:\w+ )*memory limit|oom.?kill|std::bad_alloc", re.I
)
_GPU_MEMORY = re.compile(r"(?:CUDA|HIP) (?:error: )?out of memory", re.I)
_ARCHITECTURE = re.compile(r"no kernel image is available|not compatible with the current PyTorch installation")

_SCHEDULERS_WORD = {
    "NODE_FAIL": Ending.NODE_FAIL,
    "BOOT_FAIL": Ending.NODE_FAIL,
    "rebooted": Ending.NODE_FAIL,
    "PREEMPTED": Ending.PREEMPTED,
    "OUT_OF_MEMORY": Ending.OUT_OF_MEMORY,
    "TIMEOUT": Ending.TIMEOUT,
    "DEADLINE": Ending.TIMEOUT,
    "CANCELLED": Ending.CANCELLED,
}


@dataclass(frozen=True)
class Seen:
    """What a site says of a job.

    Attributes
    ----------
    state : pending, running, unknown (it cannot be asked) or ended.
    word : the site's own word for it, such as NODE_FAIL.
    detail : the reason that it gives.
    node : where the job is or was.
    code, signal : exit code and signal as the site recorded them.
    """

    state: State
    word: str = ""
    detail: str = ""
    node: str | None = None
    code: int | None = None
    signal: int | None = None


def status(submission: SubmissionDirectory, seen: Seen) -> Status:
    """The state of a submission, and its ending once the site agrees that it has ended."""
    launch = submission.launch()
    node = seen.node or (launch.started().get("node") if launch else None)
    code = launch.exit_code() if launch is not None else None
    if code == 0:
        return Status(Ending.SUCCEEDED, node=node)
    if seen.state != State.ENDED and not (seen.word == FORGOTTEN and code is not None):
        return Status(None, seen.detail, seen.state, node)
    ending, detail = _ending(submission, launch, seen)
    return Status(ending, detail, node=node)


@dataclass(frozen=True)
class _Evidence:
    """What an ended submission left behind, and what its site said."""

    submission: SubmissionDirectory
    launch: Launch | None
    code: int | None
    seen: Seen

    @property
    def said(self) -> str:
        return " ".join(part for part in (self.seen.word, self.seen.detail) if part)


_Verdict = tuple[Ending, str] | None


def _ending(submission: SubmissionDirectory, launch: Launch | None, seen: Seen) -> tuple[Ending, str]:
    evidence = _Evidence(submission, launch, launch.exit_code() if launch else None, seen)
    rules = (
        *(_by_preflight, _by_kernel, _by_site, _by_time_limit, _by_cancellation),
        *(_by_log, _by_place, _without_exit_file),
    )
    return next((verdict for rule in rules if (verdict := rule(evidence))), None) or _by_exit_code(evidence)


def _by_preflight(evidence: _Evidence) -> _Verdict:
    preflight = evidence.launch.preflight() if evidence.launch and evidence.code == EXIT_PREFLIGHT else None
    return (Ending(preflight["ending"]), preflight["sentence"]) if preflight and preflight["ending"] else None


def _by_kernel(evidence: _Evidence) -> _Verdict:
    if evidence.launch is not None and evidence.launch.out_of_memory:
        return Ending.OUT_OF_MEMORY, "the kernel killed a process of the job: its memory limit was reached"
    return None


def _by_site(evidence: _Evidence) -> _Verdict:
    ending = _SCHEDULERS_WORD.get(evidence.seen.word)
    if ending == Ending.NODE_FAIL:
        return ending, f"its node failed ({evidence.said}); `tracebed incident NODE` says who was running there"
    return (ending, evidence.said) if ending in (Ending.PREEMPTED, Ending.OUT_OF_MEMORY) else None


def _by_time_limit(evidence: _Evidence) -> _Verdict:
    launch = evidence.launch
    if _SCHEDULERS_WORD.get(evidence.seen.word) != Ending.TIMEOUT and not (launch is not None and launch.warned):
        return None
    saved = launch.checkpoint_step() if launch else None
    kept = f"; the checkpoint of step {saved} is kept" if saved is not None else ""
    return Ending.TIMEOUT, f"the time limit was reached{kept}"


def _by_cancellation(evidence: _Evidence) -> _Verdict:
    if _SCHEDULERS_WORD.get(evidence.seen.word) == Ending.CANCELLED:
        return Ending.CANCELLED, evidence.said
    return (Ending.CANCELLED, "cancelled from here") if evidence.submission.cancelled else None


def _by_log(evidence: _Evidence) -> _Verdict:
    """What the workload's own error says, or, where it left none, the end of the log (a scheduler writes there too)."""
    error = evidence.launch.error() if evidence.launch else None
    text = error or evidence.submission.read_log(-_TAIL_BYTES).decode(errors="replace")
    if _ARCHITECTURE.search(text):
        return Ending.CUDA_ARCH, "the torch build there has no code for that GPU"
    if found := _GPU_MEMORY.search(text):
        return Ending.OUT_OF_MEMORY, f"{GPU_MEMORY} ({found.group()!r})"
    if found := _MEMORY.search(text):
        return Ending.OUT_OF_MEMORY, f"the log says {found.group()!r}"
    return None


def _by_place(evidence: _Evidence) -> _Verdict:
    """Where the job directory could not be opened or written, so that there is no exit file."""
    seen, where = evidence.seen, evidence.submission.path
    if evidence.code is not None:
        return None
    if seen.signal == _LOG_SIGNAL:
        return Ending.LAUNCH_ERROR, f"the node could not open the log or the working directory ({where})"
    if seen.code == _EXIT_NO_ROOM:
        return Ending.NO_EXIT_FILE, "the exit file could not be written: the disk of the job directory is full"
    if seen.code == _EXIT_NO_PLACE and not (evidence.launch and evidence.launch.error()):
        return Ending.LAUNCH_ERROR, f"the node could not write to {where}: its disk is full, or it may not write there"
    return None


def _without_exit_file(evidence: _Evidence) -> _Verdict:
    seen = evidence.seen
    if evidence.code is not None:
        return None
    if "BadConstraints" in seen.detail:
        return Ending.LAUNCH_ERROR, f"no node of the site has what the job asks for ({evidence.said})"
    if seen.code in (_EXIT_NO_PLACE, _EXIT_FENCED) or evidence.launch is None:
        said, where = evidence.said or "no launch was recorded", evidence.submission.path
        log = "its log says why" if evidence.submission.log.exists() else f"the node left no log in {where}"
        return Ending.LAUNCH_ERROR, f"the job never began its work ({said}); {log}"
    said = evidence.said or "its process is gone"
    return Ending.NO_EXIT_FILE, f"it left no exit code ({said}): killed, or its disk was full"


def _by_exit_code(evidence: _Evidence) -> tuple[Ending, str]:
    code = evidence.code or 0
    if code in (_NOT_EXECUTABLE, _NOT_FOUND):
        cure = "mend `environments` of the site"
        return Ending.LAUNCH_ERROR, f"the interpreter could not be run (exit code {code}): {cure}"
    if code == _EXIT_NO_PLACE:
        return Ending.LAUNCH_ERROR, "there was no place to work in"
    return Ending.USER_ERROR, f"exit code {code}" + (f" (signal {code - 128})" if code > 128 else "")
