"""The files of a job, and nothing that interprets them.

spec.json, environment (0600), run.sh, context.json and messages (Dagster Pipes), log (stdout and stderr), handle.json,
exit (the exit code, written by rename), error (type and message of what the workload raised), result.parquet,
artifacts/ (files that rows of the result point to).
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resources.compute.interface import JobSpec

_RUN = """#!/bin/sh
# Runs the workload and leaves its exit code behind, whoever is still there to see it.
set -a
. {environment}
set +a
cd {root} || exit 97
{command} >>{log} 2>&1
code=$?
printf '%s\\n' "$code" >{exit}.part && mv {exit}.part {exit}
exit "$code"
"""


@dataclass(frozen=True)
class JobDirectory:
    """Paths in one job directory."""

    path: Path

    @property
    def script(self) -> Path:
        return self.path / "run.sh"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def context(self) -> Path:
        return self.path / "context.json"

    @property
    def messages(self) -> Path:
        return self.path / "messages"

    @property
    def handle(self) -> Path:
        return self.path / "handle.json"

    @property
    def exit(self) -> Path:
        return self.path / "exit"

    @property
    def error(self) -> Path:
        return self.path / "error"

    @property
    def result(self) -> Path:
        return self.path / "result.parquet"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def prepare(self, spec: JobSpec, command: list[str], root: Path) -> None:
        """Write everything that the job needs before it can start."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.messages.touch()
        environment = self.path / "environment"
        environment.touch(mode=0o600)
        environment.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in spec.environment.items()))
        described = asdict(spec) | {"directory": str(spec.directory), "environment": sorted(spec.environment)}
        self._write("spec.json", json.dumps(described, indent=1))
        self._write(
            "run.sh",
            _RUN.format(
                environment=shlex.quote(str(environment)),
                root=shlex.quote(str(root)),
                command=shlex.join(command),
                log=shlex.quote(str(self.log)),
                exit=shlex.quote(str(self.exit)),
            ),
        )

    def write_handle(self, content: dict[str, Any]) -> None:
        """Record how the job can be found again."""
        self._write(self.handle.name, json.dumps(content))

    def read_handle(self) -> dict[str, Any] | None:
        """What `write_handle` recorded, or None before that."""
        try:
            return json.loads(self.handle.read_text())
        except FileNotFoundError:
            return None

    def exit_code(self) -> int | None:
        """The exit code of the workload, or None while there is none."""
        try:
            return int(self.exit.read_text())
        except FileNotFoundError:
            return None

    def _write(self, name: str, text: str) -> None:
        draft = self.path / f".{name}.{os.getpid()}"
        draft.write_text(text)
        draft.replace(self.path / name)
