"""The files of a job, and nothing that interprets them.

::

    <key>/                 the job: job.json (who asked for it), context.json (Pipes), inputs.json, fence, lock
    <key>/<n>/             its submission n: spec.json, environment (0600), run.sh, launch.sh, intent.json, handle.json,
                           log (stdout and stderr of every launch), ended.json
    <key>/<n>/launches/*/  one folder for each launch on a node: started, heartbeat, messages (Pipes), result.parquet,
                           versions.json (what decides numbers there), artifacts/ (files that rows of the result point
                           to), preflight.json, error (type and message of what was raised), checkpoint (last step that
                           was saved), warned, out_of_memory, exit

A job is submitted again after its node failed, and a scheduler may start one submission twice: each launch writes in a
folder of its own, and the fence names the launch that counts.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resources.compute.interface import Handle, JobSpec, Needs
from resources.compute.places import locked

_LAUNCH_SH = Path(__file__).with_name("launch.sh")
_OPEN = ".open"
_RUN = """#!/bin/sh
# One submission of a job. Everything that differs between jobs is here; what is the same is in launch.sh.
export TRACEBED_JOB={key} TRACEBED_SUBMISSION={submission} TRACEBED_SUBMISSION_DIR={directory}
export TRACEBED_FENCE={fence} TRACEBED_ROOT={root} TRACEBED_LIMIT_S={limit} TRACEBED_WARN_S={warn}
exec /bin/sh {launch} {command}
"""


@dataclass(frozen=True)
class Launch:
    """The folder of one launch of a submission on a node."""

    path: Path

    @property
    def messages(self) -> Path:
        return self.path / "messages"

    @property
    def result(self) -> Path:
        return self.path / "result.parquet"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def versions(self) -> Mapping[str, str] | None:
        """What decides numbers where it ran: versions of libraries, model of the CPU."""
        text = _text(self.path / "versions.json")
        return json.loads(text) if text else None

    @property
    def warned(self) -> bool:
        """Whether the job was told that its time limit is near."""
        return (self.path / "warned").exists()

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the job for memory."""
        return (self.path / "out_of_memory").exists()

    def exit_code(self) -> int | None:
        """The exit code of the workload, or None while there is none."""
        text = _text(self.path / "exit")
        return int(text) if text else None

    def error(self) -> str | None:
        """Type and message of what the workload raised."""
        return _text(self.path / "error")

    def checkpoint_step(self) -> int | None:
        """The last training step that the workload has saved."""
        text = _text(self.path / "checkpoint")
        return int(text) if text else None

    def heartbeat(self) -> str | None:
        """A number that grows while the launch lives; no clock is compared."""
        return _text(self.path / "heartbeat")

    def started(self) -> Mapping[str, str]:
        """Host, node, boot id, scheduler's job id and start (Unix seconds, on the node's clock); empty before that."""
        lines = (_text(self.path / "started") or "").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def preflight(self) -> Mapping[str, Any] | None:
        """What the preflight found on the node."""
        text = _text(self.path / "preflight.json")
        return json.loads(text) if text else None


@dataclass(frozen=True)
class JobDirectory:
    """The directory of a job, over all its submissions."""

    path: Path

    @property
    def context(self) -> Path:
        return self.path / "context.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.json"

    @property
    def fence(self) -> Path:
        return self.path / "fence"

    def submission(self, number: int) -> SubmissionDirectory:
        """The directory of one submission."""
        return SubmissionDirectory(self.path / str(number))

    def submissions(self) -> list[int]:
        """Numbers of the submissions that were begun, in order."""
        return sorted(int(path.name) for path in self.path.glob("[0-9]*") if path.name.isdigit())

    def replace_submissions_before(self, number: int) -> None:
        """Take the fence away from every older submission: from now on none of its launches counts or starts.

        Nothing happens where that was done before, also by another follower of the job.
        """
        with locked(self.path / "fence.lock"):
            if int((_text(self.fence) or "0").split()[0]) < number:
                write_text(self.fence, f"{number} none-yet\n")

    def record(self, facts: Mapping[str, Any]) -> None:
        """Write down who asked for the job, once."""
        if not (self.path / "job.json").exists():
            write_text(self.path / "job.json", json.dumps(dict(facts), indent=1))

    def mark_open(self) -> None:
        """Record that somebody follows the job and that its end is not known."""
        (self.path.parent / _OPEN).mkdir(exist_ok=True)
        (self.path.parent / _OPEN / self.path.name).touch()

    def mark_closed(self) -> None:
        """Record that its end is known."""
        (self.path.parent / _OPEN / self.path.name).unlink(missing_ok=True)

    def still_followed(self) -> None:
        """Say that the follower lives, for those who cannot see its process."""
        os.utime(self.path / "followed_by.json")

    def followed_s_ago(self) -> float:
        """Seconds since the follower said that it lives, by the clock of the file server."""
        clock = self.path / ".clock"
        clock.touch()
        return clock.stat().st_mtime - (self.path / "followed_by.json").stat().st_mtime

    def follower(self) -> Mapping[str, Any] | None:
        """The process and the run that followed the job last."""
        return json.loads(_text(self.path / "followed_by.json") or "null")

    def recorded(self) -> Mapping[str, Any]:
        """What `record` wrote; empty before that."""
        return json.loads(_text(self.path / "job.json") or "{}")


@dataclass(frozen=True)
class SubmissionDirectory:
    """The directory of one submission of a job."""

    path: Path

    @property
    def job(self) -> JobDirectory:
        """The directory of the job."""
        return JobDirectory(self.path.parent)

    @property
    def script(self) -> Path:
        return self.path / "run.sh"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def prepare(self, spec: JobSpec, command: list[str], root: Path, limit_s: int | None, warn_s: int) -> None:
        """Write everything that the submission needs before it can start.

        ``limit_s`` is a time limit that no scheduler enforces; ``warn_s`` how long before it the workload is warned.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        environment = self.path / "environment"
        environment.touch(mode=0o600)
        environment.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in spec.environment.items()))
        shutil.copyfile(_LAUNCH_SH, self.path / "launch.sh")
        described = asdict(spec) | {"directory": str(spec.directory), "environment": sorted(spec.environment)}
        write_text(self.path / "spec.json", json.dumps(described, indent=1))
        values = {
            "key": spec.key,
            "directory": self.path,
            "fence": self.job.fence,
            "root": root,
            "launch": self.path / "launch.sh",
            "submission": spec.submission,
            "limit": limit_s or "",
            "warn": warn_s if limit_s else "",
        }
        quoted = {name: shlex.quote(str(value)) for name, value in values.items()}
        write_text(self.script, _RUN.format(command=shlex.join(command), **quoted))

    def write_handle(self, content: Mapping[str, Any]) -> None:
        """Record how the submission can be found again."""
        write_text(self.path / "handle.json", json.dumps(dict(content)))

    def read_handle(self) -> Mapping[str, Any] | None:
        """What `write_handle` recorded, or None before that."""
        return json.loads(_text(self.path / "handle.json") or "null")

    def handle(self) -> Handle | None:
        """The handle of the submission, or None before its site was asked for anything.

        Its reference is empty where the answer is not known: the submission was interrupted.
        """
        known = self.read_handle() or ({"reference": ""} if self.read_intent() else None)
        return Handle(f"{self.path.parent.name}.{self.path.name}", self.path, known["reference"]) if known else None

    def write_intent(self, content: Mapping[str, Any]) -> None:
        """Record that a scheduler is about to be asked: from here on, look before asking again."""
        write_text(
            self.path / "intent.json", json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **content})
        )

    def read_intent(self) -> Mapping[str, Any] | None:
        """What `write_intent` recorded, or None before that."""
        return json.loads(_text(self.path / "intent.json") or "null")

    def write_ended(self, content: Mapping[str, Any]) -> None:
        """Record how the submission ended."""
        write_text(self.path / "ended.json", json.dumps(dict(content), indent=1))

    def needs(self) -> Needs | None:
        """What was asked for; None before the submission was prepared."""
        text = _text(self.path / "spec.json")
        return Needs().with_(json.loads(text)["needs"]) if text else None

    def read_ended(self) -> Mapping[str, Any] | None:
        """What `write_ended` recorded, or None before that."""
        return json.loads(_text(self.path / "ended.json") or "null")

    @property
    def cancelled(self) -> bool:
        """Whether somebody here asked for its end."""
        return (self.path / "cancelled").exists()

    def mark_cancelled(self) -> None:
        """Record that its end is asked for, before it is: from then on no launch of it begins."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "cancelled").touch()

    def launches(self) -> list[Launch]:
        """Every launch, oldest first."""
        return [Launch(path) for path in sorted((self.path / "launches").glob("*")) if path.is_dir()]

    def launch(self) -> Launch | None:
        """The launch that counts: the one the fence names, or, where a newer submission has taken it, the last."""
        number, _, name = (_text(self.job.fence) or "").strip().partition(" ")
        if number == self.path.name and (self.path / "launches" / name).is_dir():
            return Launch(self.path / "launches" / name)
        launches = self.launches()
        return launches[-1] if launches else None

    def read_log(self, offset: int) -> bytes:
        """What was printed from byte ``offset`` on; a negative offset counts from the end."""
        with suppress(FileNotFoundError), self.log.open("rb") as stream:
            stream.seek(offset if offset >= 0 else max(0, self.log.stat().st_size + offset))
            return stream.read()
        return b""


def open_jobs(jobs: Path) -> list[JobDirectory]:
    """Jobs whose end nobody has seen."""
    return [JobDirectory(jobs / path.name) for path in sorted((jobs / _OPEN).glob("*"))]


def every_job(jobs: Path) -> Iterator[JobDirectory]:
    """Every job under a folder, in the order of their keys."""
    return (JobDirectory(path.parent) for path in sorted(jobs.glob("*/job.json")))


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader finds all of it or nothing."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError as error:  # a full disk is not named by the error itself
        raise OSError(error.errno, error.strerror, str(path)) from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
