"""The local backend: a detached process on this host. It needs nothing and is the default.

The process leads a session of its own, so it outlives its starter, and is named by pid and start time together: a pid
alone may by now belong to somebody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from home import ROOT
from resources.compute.interface import Ending, Handle, JobSpec, Status
from resources.compute.job_directory import JobDirectory

_GRACE_S = 5.0


def interpreter(environment: str) -> str:
    """The Python of an environment: `$TRACEBED_PYTHON_<ENVIRONMENT>` where it is set, else the platform's own.

    Raises
    ------
    ValueError
        When the variable names something that cannot be run.
    """
    name = f"TRACEBED_PYTHON_{environment.upper()}"
    path = os.environ.get(name)
    if path is None:
        return sys.executable
    if not os.access(path, os.X_OK):
        raise ValueError(f"{name} is {path!r}, which cannot be run; set it to the Python of environment {environment}")
    return path


class LocalBackend:
    """Runs jobs as processes of this host."""

    def submit(self, spec: JobSpec) -> Handle:
        """Start the job unless it was started before (a lock and the handle file make this safe to repeat)."""
        files = JobDirectory(spec.directory)
        spec.directory.mkdir(parents=True, exist_ok=True)
        with (spec.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = files.read_handle()
            if known is None:
                files.prepare(spec, [interpreter(spec.needs.environment), "-m", spec.module], ROOT)
                known = {"process": _start(files.script)}
                files.write_handle(known)
        return Handle(spec.key, spec.directory, known["process"])

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job, from its exit file and its process."""
        return {handle.key: _status(handle) for handle in handles}

    def cancel(self, handle: Handle) -> None:
        """Ask the job's process group to end, and end it after some seconds."""
        pid, _, _ = handle.reference.partition("@")
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _GRACE_S
            with contextlib.suppress(ProcessLookupError):
                if _alive(handle.reference):
                    os.killpg(int(pid), number)
            while _alive(handle.reference) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not _alive(handle.reference):
                return

    def logs(self, handle: Handle, offset: int) -> bytes:
        """What the job printed from byte ``offset`` on."""
        with JobDirectory(handle.directory).log.open("rb") as stream:
            stream.seek(offset)
            return stream.read()


def _start(script: Path) -> str:
    process = subprocess.Popen(
        ["/bin/sh", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return f"{process.pid}@{_start_ticks(process.pid)}"


def _status(handle: Handle) -> Status:
    # The order matters: a job that ends between the two looks must be found by its exit file.
    alive = _alive(handle.reference)
    code = JobDirectory(handle.directory).exit_code()
    if code == 0:
        return Status(Ending.SUCCEEDED)
    if code is not None:
        return Status(Ending.USER_ERROR, f"exit code {code}")
    if alive:
        return Status(None)
    return Status(Ending.NO_EXIT_FILE, "the process is gone and left no exit code: killed, or the host restarted")


def _alive(reference: str) -> bool:
    pid, _, ticks = reference.partition("@")
    return _start_ticks(int(pid)) == ticks


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # if it is ours and has ended, do not leave a zombie behind
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, start_ticks = fields[0], fields[19]
    return None if state == "Z" else start_ticks
