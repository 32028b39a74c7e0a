"""Slurm's commands and what they print: asked in batches, parsed here and nowhere else.

`--parsable2` throughout: `sacct --json` reports SUCCESS for a job that exited 3. Every command has a time-out above the
10 s that squeue blocks while the controller is down; "cannot be asked" is never "unknown job".
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resources.compute.endings import FORGOTTEN, Seen
from resources.compute.interface import SiteUnavailable, State
from resources.compute.reach import Done, Here, Reach, Ssh
from resources.compute.sites import SlurmNames

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED"),
    *("PREEMPTED", "OUT_OF_MEMORY", "REVOKED"),
}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_TEMPORARY = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|reset|timed out)|zero bytes|try again"
    r"|temporarily|too many|QOSMaxSubmit|AssocMaxSubmit|AssocGrpSubmit|MaxSubmitJobs|slurmdbd|slurm_persist_conn",
    re.I,
)
_TOO_LARGE = re.compile(r"PerJob|WallDuration|PerNode|MinCpu|TimeLimit", re.I)
_ROW = re.compile(r"\d[\w.+\[\],%-]*\W")
_LOGIN = re.compile(
    r"HOME|PATH|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|SLURM_CONF|LD_LIBRARY_PATH|MODULE\w*|TRACEBED_\w+"
)
_SACCT_FIELDS = (
    "JobIDRaw,JobName,State,ExitCode,DerivedExitCode,NodeList,"
    "Submit,Start,End,ElapsedRaw,TotalCPU,MaxRSS,AllocTRES,User"
)


@dataclass(frozen=True)
class AccountRow:
    """One row of sacct: a job (``step`` is empty) or one of its steps."""

    job: str
    step: str
    name: str
    state: str
    detail: str
    code: int
    signal: int
    nodes: str
    submit: str
    start: str
    end: str
    elapsed_s: int
    cpu_s: float
    max_rss_bytes: int | None
    tres: Mapping[str, str]
    user: str


class Slurm:
    """The commands of one Slurm, on this host or on its login node."""

    def __init__(self, names: SlurmNames, reach: Reach, accounting: bool):
        self._names, self._reach, self.accounting = names, reach, accounting
        self._user = reach.user if isinstance(reach, Ssh) else getpass.getuser()

    def submit(self, options: Sequence[str], script: str, hold: Sequence[int]) -> str | SubmitError:
        """Submit a script; returns the job's id, or what went wrong."""
        command = [*self._plain_environment(), self._names.sbatch, "--parsable", *options, script]
        done = self._reach.run(command, hold=hold)
        if done.code == 0 and (found := re.search(r"^(\d+)(?:;|$)", done.out, re.M)):
            return found[1]
        temporary = bool(_TEMPORARY.search(done.said())) and not _TOO_LARGE.search(done.said())
        return SubmitError(done.said(), temporary)

    def _plain_environment(self) -> list[str]:
        """On this host: the environment of a login, to keep secrets and settings of whoever submits out of jobs."""
        if not isinstance(self._reach, Here):
            return []
        kept = {name: value for name, value in os.environ.items() if _LOGIN.fullmatch(name)}
        return ["env", "-i", *(f"{name}={value}" for name, value in kept.items())]

    def queue(self, *, name: str | None = None) -> dict[str, Seen]:
        """Jobs that the controller knows, by id: all of this user, or those of one name."""
        which = [f"--name={name}"] if name else []
        argv = [
            self._names.squeue,
            f"--user={self._user}",
            "--states=all",
            "--noheader",
            "--format=%i|%T|%r|%N",
            *which,
        ]
        return parse_queue(self._ask(argv).out)

    def account(self, jobs: Sequence[str]) -> list[AccountRow]:
        """What the accounting has of jobs and their steps, last run of each."""
        if not jobs:
            return []
        argv = [self._names.sacct, "--parsable2", "--noheader", f"--jobs={','.join(jobs)}", f"--format={_SACCT_FIELDS}"]
        return parse_account(self._ask(argv).out)

    def account_by_name(self, name: str, since: str) -> list[AccountRow]:
        """Jobs of a name in the accounting, submitted since a moment (`YYYY-MM-DDTHH:MM:SS`, UTC)."""
        argv = [self._names.sacct, "--parsable2", "--noheader", f"--name={name}", f"--starttime={since}"]
        rows = parse_account(self._ask([*argv, f"--format={_SACCT_FIELDS}"], utc=True).out)
        # A submission that was refused leaves a FAILED row that never had a node.
        return [row for row in rows if not row.step and not (row.state == "FAILED" and row.nodes == "None assigned")]

    def cancel(self, name: str) -> None:
        """End every job of this user that has this name; none is no error."""
        done = self._reach.run([self._names.scancel, f"--user={self._user}", f"--name={name}"])
        if done.code and "Invalid job id" not in done.said():  # it ended meanwhile
            raise SiteUnavailable(f"{self._names.scancel} {name}: {done.said()}")

    def show(self, *what: str) -> str:
        """What `scontrol show` prints; times in UTC."""
        return self._ask([self._names.scontrol, "--details", "show", *what], utc=True).out

    def everyones_account(self, node: str, since: str, until: str) -> list[AccountRow]:
        """Jobs and steps of every user on a node in a span of time, every run of a requeued job; times in UTC."""
        delimiter = secrets.token_hex(6)  # strangers chose the job names: any text, with | and newlines
        argv = [self._names.sacct, "--allusers", "--duplicates", "--parsable2", "--noheader", f"--nodelist={node}"]
        argv += [f"--starttime={since}", f"--endtime={until}", f"--format={_SACCT_FIELDS}", f"--delimiter={delimiter}"]
        return parse_account(self._ask(argv, utc=True).out, delimiter)

    def events(self, node: str, since: str) -> str:
        """Node events of the accounting: `state|start|end|reason|user` a line; times in UTC."""
        argv = [self._names.sacctmgr, "--parsable2", "--noheader", "show", "event", f"nodes={node}", f"start={since}"]
        return self._ask([*argv, "format=State,TimeStart,TimeEnd,Reason,User"], utc=True).out

    def _ask(self, argv: Sequence[str], *, utc: bool = False) -> Done:
        """Run a command; with ``utc`` it reads and prints times in UTC, not in the zone of the host where it runs."""
        done = self._reach.run(["env", "TZ=UTC", *argv] if utc else argv)
        if done.code:
            raise SiteUnavailable(f"{argv[0]}: {done.said()}")
        return done

    def seen(self, jobs: Sequence[str]) -> dict[str, Seen]:
        """What Slurm says of jobs, with one squeue and at most one sacct."""
        queue = self.queue()
        ended = [job for job in jobs if job not in queue or queue[job].state == State.ENDED]
        accounted: dict[str, Seen] = {}
        silent = ""
        if ended and self.accounting:
            try:
                accounted = {row.job: _seen(row) for row in self.account(ended) if not row.step}
            except SiteUnavailable as unavailable:  # what squeue says still holds
                silent = str(unavailable)
        found = {}
        for job in jobs:
            in_queue, in_account = queue.get(job), accounted.get(job)
            if in_queue is not None and in_queue.state != State.ENDED:
                found[job] = in_queue
            elif in_account is not None and in_account.state == State.ENDED:
                reason = in_queue.detail if in_queue is not None else ""  # such as BadConstraints: sacct has none
                found[job] = replace(in_account, detail=in_account.detail or reason)
            elif in_queue is not None:
                found[job] = in_queue  # the accounting lags behind, or there is none
            else:
                found[job] = in_account or _neither_knows(self.accounting, silent)
        return found


@dataclass(frozen=True)
class SubmitError:
    """A submission that failed; ``temporary`` ones may be tried again after looking for the job."""

    said: str
    temporary: bool


def parse_queue(text: str) -> dict[str, Seen]:
    """Jobs by id, from lines `id|STATE|reason|nodes`."""
    found = {}
    lines = (line.strip() for line in text.splitlines())
    for job, word, reason, nodes in (line.split("|", 3) for line in lines if _ROW.match(line) and line.count("|") >= 3):
        found[job] = Seen(_state(word), word, "" if reason == "None" else reason, nodes or None)
    return found


def parse_account(text: str, delimiter: str = "|") -> list[AccountRow]:
    """Rows of sacct with the fields that are asked for here.

    A job whose script ended with 0 has the highest exit code of its steps.
    """
    rows = []
    for record in _records(text, delimiter):
        values = record.split(delimiter)
        raw, name, state, exit_code, derived, nodes, submit, start, end, elapsed, cpu, rss, tres, user = values
        job, _, step = raw.partition(".")
        word, _, detail = state.partition(" ")
        code, _, signal = exit_code.partition(":")
        if code == "0" and not step and derived:
            code, _, signal = derived.partition(":") if derived != "0:0" else (code, "", signal)
        rows.append(
            AccountRow(
                job,
                step,
                name,
                word,
                detail,
                int(code or 0),
                int(signal or 0),
                nodes,
                submit,
                start,
                end,
                int(elapsed or 0),
                cpu_seconds(cpu),
                memory_bytes(rss),
                dict(part.partition("=")[::2] for part in tres.split(",") if part),
                user,
            )
        )
    return _with_codes_of_steps(rows)


def _with_codes_of_steps(rows: list[AccountRow]) -> list[AccountRow]:
    """Jobs without a code of their own get that of their worst step.

    Slurm loses a DerivedExitCode for good where a script ends before the controller has heard of its step's end.
    """
    found, worst = [], (0, 0)
    for row in reversed(rows):  # a job stands before its steps
        if row.step not in ("", "batch", "extern"):
            worst = max(worst, (row.code, row.signal))
        lost = not row.step and row.state == "COMPLETED" and (row.code, row.signal) == (0, 0)
        found.append(replace(row, code=worst[0], signal=worst[1]) if lost else row)
        worst = worst if row.step else (0, 0)
    return found[::-1]


def _records(text: str, delimiter: str) -> Iterator[str]:
    record = ""
    for line in text.split("\n"):
        if not record and not _ROW.match(line):
            continue  # a login shell that greets
        record = f"{record} {line}" if record else line  # a job's name may hold a newline
        if record.count(delimiter) >= _SACCT_FIELDS.count(","):
            yield record
            record = ""


def cpu_seconds(text: str) -> float:
    """Seconds of Slurm's `[days-]hours:minutes:seconds` or `minutes:seconds.fraction`."""
    days, _, rest = text.rpartition("-")
    total = 0.0
    for part in rest.split(":") if rest else ():
        total = 60 * total + float(part)
    return 86400 * int(days or 0) + total


def memory_bytes(text: str) -> int | None:
    """Bytes of Slurm's `123K`, `4.5M`, `1G`; None where nothing was recorded."""
    found = re.fullmatch(r"([\d.]+)([KMGTP]?)", text)
    return int(float(found[1]) * 1024 ** " KMGTP".index(found[2] or " ")) if found else None


def is_final(rows: Sequence[AccountRow]) -> bool:
    """Whether the account of one job is closed: sacct lags behind."""
    return any(not row.step and _state(row.state) == State.ENDED for row in rows)


def usage(rows: Sequence[AccountRow]) -> dict[str, Any]:
    """Resources that one job used, from its rows: columns of table `jobs`."""
    job = next(row for row in rows if not row.step)
    resident = [row.max_rss_bytes for row in rows if row.max_rss_bytes]
    return {
        "elapsed_s": float(job.elapsed_s),
        "cpu_s": job.cpu_s,
        "max_rss_gb": max(resident) / 1024**3 if resident else None,
        "gpus": int(job.tres.get("gres/gpu", 0)),
        "cpus": int(job.tres.get("cpu", 0)) or None,
    }


def _seen(row: AccountRow) -> Seen:
    node = None if row.nodes in ("", "None assigned") else row.nodes
    return Seen(_state(row.state), row.state, row.detail, node, row.code, row.signal)


def _state(word: str) -> State:
    """A word that is none of these says nothing: it is no end."""
    states = {State.PENDING: _PENDING, State.RUNNING: _RUNNING, State.ENDED: _ENDED}
    return next((state for state, words in states.items() if word.rstrip("+") in words), State.UNKNOWN)


def _neither_knows(accounting: bool, silent: str) -> Seen:
    if silent:
        return Seen(State.UNKNOWN, detail=silent)
    if accounting:
        return Seen(State.UNKNOWN, FORGOTTEN, "neither squeue nor sacct knows this job at the moment")
    return Seen(State.ENDED, detail="squeue no longer knows the job, and this site keeps no account")
