"""SSH inside an allocation: for clusters whose nodes let in only users who have a job there (pam_slurm_adopt).

The scheduler is asked for an allocation that only waits, queued like any other job. Once it stands, the job is started
on its node through SSH, where it is adopted; the allocation is given back when the job has ended, and a job that has
lost its allocation is ended. Such a session has no CUDA_VISIBLE_DEVICES: the GPUs of the allocation are read from the
scheduler.

The module adopts a connection, not a command, and of several jobs of a user on one node it takes the newest (measured).
So each job is started through a connection of its own, and only where that was adopted by its own allocation; another
one waits until the newer has ended.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resources.compute.endings import Seen
from resources.compute.interface import Ending, Handle, JobSpec, SiteUnavailable, State, Status
from resources.compute.job_directory import SubmissionDirectory, write_text
from resources.compute.places import locked
from resources.compute.processes import ask_supervisors, require_one_line, supervisor
from resources.compute.reach import REFUSED_WITHOUT_JOB
from resources.compute.sites import Site
from resources.compute.slurm import SlurmBackend, allocation_options
from resources.compute.slurm_commands import SubmitError
from resources.compute.snapshot import Snapshot
from resources.compute.submitting import submit_once

_CANCEL_S = 60.0
_ADOPTED_BY_ANOTHER = 75
_GRANTED = "the allocation stands; the job is being started in it"
_HOLD = """#!/bin/sh
# Holds the allocation: a job is started in it through SSH. (salloc --no-shell would block its caller while it queues,
# and lose the place in the queue with it.)
exec sleep 2147483647
"""


class AllocationBackend(SlurmBackend):
    """Runs each job on a node through SSH, inside an allocation of its own."""

    def __init__(self, site: Site, state: Path):
        super().__init__(site, state)
        self._state = state
        self._snapshot = Snapshot(state, site.poll_s, self._seen)
        self._tried: dict[str, float] = {}
        self._started: set[str] = set()

    def submit(self, spec: JobSpec) -> Handle:
        """Ask for an allocation, unless that was done before; `poll` starts the job in it. See `Backend.submit`."""
        require_one_line(spec)

        def ask(files: SubmissionDirectory, lock: int) -> Mapping[str, Any]:
            job = self._job(files, spec, lock)
            return {"reference": f"{job}@{spec.directory}", "job": job}

        return submit_once(spec, ask)

    def _ask_for_job(self, spec: JobSpec, files: SubmissionDirectory, lock: int) -> str | SubmitError:
        script = files.path / "hold.sh"
        write_text(script, _HOLD)
        options = ["--no-requeue", "--dependency=singleton", "--kill-on-invalid-dep=yes", "--output=/dev/null"]
        return self.slurm.submit([*options, *allocation_options(self.site, spec)], str(script), hold=[lock])

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job; those whose allocation stands are started, allocations of ended ones given back."""
        found = dict(super().poll(handles))
        for handle in handles:
            status = found[handle.key]
            if status.ending is None and status.detail == _GRANTED and status.node:
                status = self._begun(handle, status.node)
            if status.ending is not None:
                status = self._given_back(handle, _decided(handle, status))
            found[handle.key] = status
        return found

    def _begun(self, handle: Handle, node: str) -> Status:
        """Start the job on the node of its allocation, unless it was started; tried once a cycle."""
        if handle.key in self._started:  # what the site said last is from before
            return Status(None, "", State.RUNNING, node)
        if time.monotonic() - self._tried.get(handle.key, -1e9) < self.site.poll_s:
            return Status(None, _GRANTED, State.PENDING, node)
        try:
            return self._start(handle, node)
        except SiteUnavailable as unavailable:  # also a node that has not learnt of the allocation yet
            return Status(None, f"not started yet: {unavailable}", State.UNKNOWN, node)
        finally:
            self._tried[handle.key] = time.monotonic()

    def _start(self, handle: Handle, node: str) -> Status:
        files = SubmissionDirectory(handle.directory)
        with locked(handle.directory / "lock") as lock:
            if files.cancelled:
                raise SiteUnavailable("its end was asked for")
            self._put_inside(files, _job(handle.reference), node)
            argv = ["start", str(handle.directory), _job(handle.reference)]
            done = supervisor(self.site, node, self._state, alone=True).run(argv, hold=[lock])
        if done.code == _ADOPTED_BY_ANOTHER:
            raise SiteUnavailable(f"{done.said()}: it waits until that one has ended")
        if done.code:
            return Status(Ending.LAUNCH_ERROR, f"the job could not be started on {node}: {done.said()}", node=node)
        if not done.out.strip():  # as when the connection breaks: it may have started
            raise SiteUnavailable(f"{node} did not say whether the job started; asking again is safe")
        self._started.add(handle.key)
        return Status(None, "", State.RUNNING, node)

    def _put_inside(self, files: SubmissionDirectory, job: str, node: str) -> None:
        """Tell the job of its allocation: node, GPUs, and the time limit, of which Slurm warns only its own steps."""
        known = files.read_handle() or {}
        if known.get("node"):
            return
        described = json.loads((files.path / "spec.json").read_text())
        limit_s = described["needs"]["time_limit_s"] or self.site.time_limit_s
        gpus = gpu_indices(self.slurm.show("job", job)) if described["needs"]["gpus"] else []
        inside = {
            "SLURM_JOB_ID": job,
            "TRACEBED_NODE": node,
            **({"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}),
            **(
                {"TRACEBED_LIMIT_S": str(limit_s), "TRACEBED_WARN_S": str(self.site.warn_before(limit_s))}
                if limit_s
                else {}
            ),
        }
        environment = files.path / "environment"
        draft = environment.with_name(".environment.part")
        draft.touch(mode=0o600)
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in inside.items())
        draft.write_text(environment.read_text() + lines)
        draft.replace(environment)
        files.write_handle({**known, "node": node})

    def _given_back(self, handle: Handle, status: Status) -> Status:
        """Give the allocation of an ended job back; until that is done, the job has not ended."""
        given_back = handle.directory / "given_back"
        if given_back.exists():
            return status
        files = SubmissionDirectory(handle.directory)
        launch = files.launch()
        try:
            fate = "the job had ended"
            if launch is None or launch.exit_code() is None:
                fate = self._end_or_fence_out(handle)
            self.slurm.cancel(handle.key)
        except SiteUnavailable as unavailable:
            detail = f"{status.ending} ({status.detail}); its allocation is not given back yet: {unavailable}"
            return Status(None, detail, State.UNKNOWN, status.node)
        write_text(given_back, f"{fate}\n")
        return status

    def _end_or_fence_out(self, handle: Handle) -> str:
        """End what goes on without an allocation (a node that adopts processes has done so); where that is impossible,
        take its fence: from then on it records nothing."""
        try:
            self._end_process(handle)
        except SiteUnavailable as unavailable:
            files = SubmissionDirectory(handle.directory)
            files.job.replace_submissions_before(int(files.path.name) + 1)
            return f"fenced out, since its node could not be asked: {unavailable}"
        return "nothing of it goes on"

    def _end_process(self, handle: Handle) -> None:
        node = (SubmissionDirectory(handle.directory).read_handle() or {}).get("node")
        if node is None:
            return
        argv = ["cancel", str(handle.directory), handle.key]
        try:
            done = supervisor(self.site, node, self._state).run(argv, timeout_s=_CANCEL_S)
        except SiteUnavailable as refused:
            if REFUSED_WITHOUT_JOB in str(refused):  # no allocation any more: it took its processes with it
                return
            raise
        if done.code:
            raise SiteUnavailable(f"{handle.key} could not be ended on {node}: {done.said()}")

    def _seen(self, references: Sequence[str]) -> dict[str, Seen]:
        """What Slurm says of the allocations, and the nodes of the processes in those that stand."""
        allocations = self._allocations(references)
        standing = {
            each: f"{seen.node}:{_directory(each)}"
            for each, seen in allocations.items()
            if seen.word == "RUNNING" and seen.node
        }
        found = allocations | ask_supervisors(self.site, self._state, standing)
        for each in standing:
            if found[each].word == "absent":
                found[each] = Seen(State.PENDING, "granted", _GRANTED, allocations[each].node)
        # Whoever ends an allocation ends its processes: then it is the allocation's word that says why.
        gone = [each for each in standing if found[each].state == State.ENDED]
        later = self._allocations(gone) if gone else {}
        return found | {each: seen for each, seen in later.items() if seen.word != "RUNNING"}

    def _allocations(self, references: Sequence[str]) -> dict[str, Seen]:
        seen = self.slurm.seen([_job(each) for each in references])
        return {each: seen[_job(each)] for each in references}

    def cancel(self, handle: Handle) -> None:
        """End the job on its node, and its allocation whether or not that was possible."""
        SubmissionDirectory(handle.directory).mark_cancelled()
        with locked(handle.directory / "lock"):  # a start that is under way has ended
            try:
                self._end_process(handle)
            finally:
                self.slurm.cancel(handle.key)

    def usage(self, handles: Sequence[Handle]) -> Mapping[str, Mapping[str, Any]]:
        """Resources of the allocations, from sacct."""
        return super().usage([replace(handle, reference=_job(handle.reference)) for handle in handles])


def _decided(handle: Handle, status: Status) -> Status:
    """How the job ended, as whoever saw it first wrote it down.

    The allocation is given back next, and to other followers it would then look cancelled.
    """
    path = handle.directory / "decided.json"
    with locked(handle.directory / "lock"):
        if not path.exists():
            write_text(path, json.dumps({"ending": status.ending, "detail": status.detail, "node": status.node}))
        told = json.loads(path.read_text())
    return Status(Ending(told["ending"]), told["detail"], node=told["node"])


def gpu_indices(shown: str) -> list[int]:
    """Indices of the GPUs of a job, from `scontrol --details show job`: `GRES=gpu:v100:3(IDX:0-1,4)`."""
    found = re.search(r"GRES=gpu[^\s(]*\(IDX:([\d,-]+)\)", shown)
    indices: list[int] = []
    for part in found[1].split(",") if found else ():
        first, _, last = part.partition("-")
        indices += range(int(first), int(last or first) + 1)
    return indices


def _job(reference: str) -> str:
    return reference.partition("@")[0]


def _directory(reference: str) -> str:
    return reference.partition("@")[2]
