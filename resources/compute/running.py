"""Follows one job to its end: submits it or finds it again, shows its log, and submits it again where that helps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resources.compute.excluded import ExcludedNodes
from resources.compute.interface import (
    Backend,
    Ending,
    Handle,
    JobSpec,
    SiteUnavailable,
    State,
    Status,
    SubmissionRefused,
)
from resources.compute.job_directory import JobDirectory, SubmissionDirectory, write_text
from resources.compute.places import take_place
from resources.compute.process import this_process
from resources.compute.retries import another
from resources.compute.sites import Site, SiteError

_SHORTEST_CYCLE_S, _LONGEST_CYCLE_S = 0.05, 0.3
_LONGEST_PAUSE_S = 60.0
_SIGN_OF_LIFE_S = 30.0

Say = Callable[[str], object]


class JobRun:
    """One job at one site.

    Parameters
    ----------
    job : its directory.
    run : the Dagster run that follows it.
    state : folder of what is known of the site (places, excluded nodes).
    say : shows a line in the run. echo : shows what the job printed.
    was_cancelled : whether the run that follows the job was cancelled, asked when it is interrupted.
    """

    def __init__(
        self,
        job: JobDirectory,
        site: Site,
        backend: Backend,
        state: Path,
        *,
        run: str,
        say: Say,
        echo: Callable[[bytes], object],
        was_cancelled: Callable[[], bool],
    ):
        self.job, self.site, self._backend, self._run = job, site, backend, run
        self._state, self._excluded = state, ExcludedNodes(state)
        self._say, self._echo, self._was_cancelled = say, echo, was_cancelled

    def to_end(self, spec: JobSpec) -> Status:
        """Submit ``spec`` (its key and directory are completed by the number of the submission) and follow it.

        Where the job was submitted before and has not failed, that submission is followed instead.
        """
        first = number = self._number()
        if self.job.submissions():
            self._say(f"job {self.job.path.name} is there already: following its submission {number}")
        self._attach()
        spec = replace(spec, needs=self.job.submission(number).needs() or spec.needs)
        while True:
            excluded = tuple(sorted(self._excluded.current()))
            numbered = replace(
                spec,
                key=f"{spec.key}.{number}",
                directory=self.job.path / str(number),
                submission=number,
                exclude_nodes=excluded,
            )
            status = self._follow(numbered)
            submissions = [self.job.submission(each) for each in range(first, number + 1)]
            retry = None if status.ending is None else another(status, submissions, spec.needs, self.site)
            record_end(submissions[-1], status, retry.why if retry else None)
            if retry is None:
                self.job.mark_closed()
                return status
            if retry.exclude_node:
                self._excluded.exclude(retry.exclude_node, self.site.exclude_h, status.detail, numbered.key)
                self._say(f"node {retry.exclude_node} is left out for {self.site.exclude_h:g} h")
            number += 1
            self._say(f"{status.ending}: {retry.why}; submitting the job again (submission {number})")
            self.job.replace_submissions_before(number)
            spec = replace(spec, needs=retry.needs)

    def _number(self) -> int:
        """The submission to follow: the last one unless it has failed."""
        numbers = self.job.submissions()
        if not numbers:
            return 1
        ended = self.job.submission(numbers[-1]).read_ended()
        if ended is None or ended["ending"] == Ending.SUCCEEDED:
            return numbers[-1]
        self.job.replace_submissions_before(numbers[-1] + 1)
        return numbers[-1] + 1

    def _follow(self, spec: JobSpec) -> Status:
        try:
            with self._place(SubmissionDirectory(spec.directory)):
                return self._watched(self._submitted(spec))
        except (SubmissionRefused, SiteError) as refused:  # such as an environment that the site has not
            return Status(Ending.LAUNCH_ERROR, str(refused))
        except BaseException:  # an interrupt above all: whoever ends this run must be told what becomes of the job
            self._let_go(spec)
            raise

    @contextmanager
    def _place(self, files: SubmissionDirectory) -> Iterator[None]:
        """One of the site's places; a job that was submitted before does not wait for one."""
        with ExitStack() as stack:
            if self.site.max_jobs is not None:
                submitted = files.read_intent() is not None
                told = f"waiting: site {self.site.name} runs {self.site.max_jobs} jobs at once"
                place = take_place(
                    self._state / "places",
                    self.site.max_jobs,
                    0.0 if submitted else None,
                    "places",
                    None if submitted else lambda: self._say(told),
                )
                try:
                    stack.enter_context(place)
                except SiteUnavailable:  # more jobs run than may: no reason to leave this one alone
                    self._say(f"all {self.site.max_jobs} places of site {self.site.name} are taken")
            yield

    def _submitted(self, spec: JobSpec) -> Handle:
        pause_s = 1.0
        while True:
            try:
                handle = self._backend.submit(spec)
            except SiteUnavailable as unavailable:
                self._say(f"not submitted yet, trying again in {pause_s:.0f} s: {unavailable}")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._say(f"job {spec.key} on site {self.site.name}: {handle.reference}, in {spec.directory}")
                return handle

    def _watched(self, handle: Handle) -> Status:
        offset, told, cycle_s, lived = 0, "", _SHORTEST_CYCLE_S, time.monotonic()
        while True:
            if time.monotonic() - lived > _SIGN_OF_LIFE_S:
                self.job.still_followed()
                lived = time.monotonic()
            status = self._backend.poll([handle])[handle.key]
            fresh = self._backend.logs(handle, offset)
            offset += len(fresh)
            if fresh:
                self._echo(fresh)
            if status.ending is not None:
                return status
            now = f"{status.state} {status.node or ''}: {status.detail}" if status.detail else f"{status.state}"
            if now != told and (told or status.state != State.UNKNOWN):
                self._say(f"job {handle.key} is {now}")
                told = now
            time.sleep(cycle_s)
            cycle_s = min(1.2 * cycle_s, _LONGEST_CYCLE_S)

    def _let_go(self, spec: JobSpec) -> None:
        """The run ends before the job: cancel the job if the run was cancelled, leave it running otherwise."""
        if self._was_cancelled():
            self._say(f"the run was cancelled: ending job {spec.key}")
            end_submission(self._backend, SubmissionDirectory(spec.directory))
        else:
            self._say(f"job {spec.key} goes on; a re-execution of this run finds it again")

    def _attach(self) -> None:
        self.job.path.mkdir(parents=True, exist_ok=True)
        write_text(self.job.path / "followed_by.json", json.dumps(this_process() | {"run": self._run, "at": _now()}))
        self.job.mark_open()


def end_submission(backend: Backend, files: SubmissionDirectory) -> None:
    """End a submission whose run was cancelled, and close its job; also one that is only being submitted.

    Raises
    ------
    SiteUnavailable
        When the site cannot be asked; the job is still open then, and no launch of it begins.
    """
    files.mark_cancelled()
    handle = files.handle()
    if handle is not None:
        backend.cancel(handle)
    record_end(files, Status(Ending.CANCELLED, "its run was cancelled"))
    files.job.mark_closed()


def record_end(files: SubmissionDirectory, status: Status, retried: str | None = None) -> None:
    """Write down how a submission ended, and why another one follows."""
    launch = files.launch()
    content: dict[str, Any] = {
        "ending": status.ending,
        "detail": status.detail,
        "node": status.node,
        "ended_at": _now(),
        "launch": launch.path.name if launch else None,
        "checkpoint_step": launch.checkpoint_step() if launch else None,
        "retried": retried,
    }
    files.path.mkdir(parents=True, exist_ok=True)
    files.write_ended(content)


def _now() -> str:
    return datetime.now(UTC).isoformat()
