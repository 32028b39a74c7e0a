"""The compute interface: what a job is, how it can end, and what a backend must do.

A backend knows nothing of Dagster, assets or tables. It is asked four things: submit, poll, cancel, logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True)
class Needs:
    """What a workload needs; the site says how it gets it, and the preflight on the node whether it is there.

    Attributes
    ----------
    cpus : threads that numerical libraries may use.
    memory_gb : resident memory, GB. A site without a scheduler does not enforce it.
    gpus : whole GPUs.
    gpu_memory_gb : free memory on each of them, GB.
    disk_gb : free space where the job writes, GB.
    time_limit_s : after this, the job is ended; None: as the site has it.
    draws : whether frames are rendered, with EGL.
    packages : Python packages that must be there, by import name.
    environment : name of the interpreter or command that the site maps to a path.
    """

    cpus: int = 1
    memory_gb: float = 4.0
    gpus: int = 0
    gpu_memory_gb: float = 0.0
    disk_gb: float = 0.5
    time_limit_s: int | None = None
    draws: bool = False
    packages: tuple[str, ...] = ()
    environment: str = "default"

    def with_(self, given: Mapping[str, Any]) -> Needs:
        """These needs with some of them replaced, as a configuration file or the launchpad names them.

        Raises
        ------
        ValueError
            For a name that is none, or a value of another type.
        """
        names = sorted(each.name for each in fields(self))
        if unknown := sorted(set(given) - set(names)):
            raise ValueError(f"found needs {unknown}, expected some of {names}")
        try:
            return TypeAdapter(Needs).validate_python({**asdict(self), **given})
        except ValidationError as error:
            told = "; ".join(f"{e['loc'][0]} = {e['input']!r} ({e['msg']})" for e in error.errors())
            raise ValueError(f"found needs that cannot be used: {told}") from error


@dataclass(frozen=True)
class JobSpec:
    """One submission of a job: a command in a directory of its own.

    Attributes
    ----------
    key : names the submission for ever; submitting the same key twice starts it once.
    directory : of this submission, on a file system that the node sees. The fence is in its parent.
    module : Python module that is run.
    environment : variables added to the node's own.
    submission : 1 for the first; a job that is tried again gets the next.
    exclude_nodes : where it must not run.
    """

    key: str
    directory: Path
    module: str
    needs: Needs = Needs()
    environment: Mapping[str, str] = field(default_factory=dict)
    submission: int = 1
    exclude_nodes: tuple[str, ...] = ()


class State(StrEnum):
    """Where a job stands. UNKNOWN (the site cannot be asked, or does not say) is never an end."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    UNKNOWN = "UNKNOWN"
    ENDED = "ENDED"


class Ending(StrEnum):
    """How a job ended."""

    SUCCEEDED = "SUCCEEDED"
    USER_ERROR = "USER_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    CUDA_ARCH = "CUDA_ARCH"
    LAUNCH_ERROR = "LAUNCH_ERROR"
    NO_EXIT_FILE = "NO_EXIT_FILE"


@dataclass(frozen=True)
class Handle:
    """What a backend needs to find a job again.

    ``reference`` says what the site calls it (a job id, a node and directory); empty where a submission was interrupted
    before its answer: the key still finds it.
    """

    key: str
    directory: Path
    reference: str


@dataclass(frozen=True)
class Status:
    """The state of a job, its ending where it has one, why, and the node where that is known."""

    ending: Ending | None
    detail: str = ""
    state: State = State.ENDED
    node: str | None = None


class SiteUnavailable(RuntimeError):
    """A site that cannot be asked now. Nothing is known of its jobs, and nothing is submitted again."""


class SubmissionRefused(RuntimeError):
    """A job that the site does not take, and would not take a second time."""


class Backend(Protocol):
    """A kind of site."""

    def submit(self, spec: JobSpec) -> Handle:
        """Start the job unless one with this key was started; return its handle either way.

        Raises
        ------
        SiteUnavailable
            When the site cannot be asked, or takes no job at present; submitting again later is safe.
        SubmissionRefused
            When the site refuses the job for good.
        """

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job, by key, with one question to the site whatever their number."""

    def cancel(self, handle: Handle) -> None:
        """End the job and everything that it started. Cancelling an ended job is not an error."""

    def logs(self, handle: Handle, offset: int) -> bytes:
        """What the job printed from byte ``offset`` on."""

    def usage(self, handles: Sequence[Handle]) -> Mapping[str, Mapping[str, Any]]:
        """Resources used, by key, of the jobs of which the site keeps account: columns of table `jobs`."""
