"""The compute interface: what a job is, how it can end, and what a backend must do.

A backend knows nothing of Dagster, assets or tables. It is asked four things: submit, poll, cancel, logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Needs:
    """What a workload needs; the site says how it gets it.

    Attributes
    ----------
    cpus : threads that numerical libraries may use.
    memory_gb : resident memory, GB. A site without a scheduler does not enforce it.
    gpus : whole GPUs.
    environment : name of the interpreter or command that the site maps to a path.
    """

    cpus: int = 1
    memory_gb: float = 4.0
    gpus: int = 0
    environment: str = "default"


@dataclass(frozen=True)
class JobSpec:
    """One job: a command in a directory of its own.

    Attributes
    ----------
    key : names the job for ever; submitting the same key twice starts it once.
    directory : the job directory, on a file system that the node sees.
    module : Python module that is run.
    environment : variables added to the node's own.
    """

    key: str
    directory: Path
    module: str
    needs: Needs = Needs()
    environment: Mapping[str, str] = field(default_factory=dict)


class Ending(StrEnum):
    """How a job ended."""

    SUCCEEDED = "SUCCEEDED"
    USER_ERROR = "USER_ERROR"
    CANCELLED = "CANCELLED"
    LAUNCH_ERROR = "LAUNCH_ERROR"
    NO_EXIT_FILE = "NO_EXIT_FILE"


@dataclass(frozen=True)
class Handle:
    """What a backend needs to find a job again."""

    key: str
    directory: Path
    reference: str


@dataclass(frozen=True)
class Status:
    """The state of a job: running while ``ending`` is None."""

    ending: Ending | None
    detail: str = ""


class Backend(Protocol):
    """A kind of site."""

    def submit(self, spec: JobSpec) -> Handle:
        """Start the job unless one with this key was started; return its handle either way."""

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job, by key, with one question to the site whatever their number."""

    def cancel(self, handle: Handle) -> None:
        """End the job and everything that it started. Cancelling an ended job is not an error."""

    def logs(self, handle: Handle, offset: int) -> bytes:
        """What the job printed from byte ``offset`` on."""
