"""A workload's side of a job: its inputs, its progress, and its one result.

Everything that a workload writes goes into the folder of its launch; publication is the orchestrator's. An exception
that leaves the ``with`` block is kept as the job's error, in words, and ends the process with a non-zero code.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from dagster_pipes import PipesContext, PipesMessageWriter, PipesMessageWriterChannel, open_dagster_pipes

from files import write_whole
from home import Home
from io_managers.artifacts import ArtifactStore
from io_managers.content import content_hash, file_hash
from io_managers.tables import TablePartition
from provenance.lineage import deciding_versions
from workloads.fence import require_fence

_PROGRESS_INTERVAL_S = 2.0


class Job:
    """Inputs and result of the running job."""

    def __init__(self, pipes: PipesContext):
        self._pipes = pipes
        self.directory = _launch()
        self.params: Mapping[str, Any] = pipes.get_extra("params")
        self.home = Home(Path(pipes.get_extra("home")))
        self._store = ArtifactStore(self.home.artifacts)
        self._last_progress = 0.0

    def input(self, name: str) -> TablePartition:
        """The one partition that an input names."""
        return _reference(self._pipes.get_extra("inputs")[name])

    def inputs(self, name: str) -> dict[str, TablePartition]:
        """The partitions that an input names, by partition key, in the order that the asset gave."""
        return {key: _reference(each) for key, each in self._pipes.get_extra("inputs")[name]["partitions"].items()}

    def artifact(self, name: str) -> Path:
        """The verified path of an artifact that a row of an input points to."""
        return self._store.verified(name)

    def progress(self, fraction: float, message: str) -> None:
        """Show progress in the logs of job and run, at most every other second; the beginning and the end always."""
        now = time.monotonic()
        if 0.0 < fraction < 1.0 and now - self._last_progress < _PROGRESS_INTERVAL_S:
            return
        self._last_progress = now
        self.say(f"{100 * fraction:3.0f} %  {message}")

    def say(self, line: str) -> None:
        """Show a line in the logs of job and run."""
        print(line, flush=True)
        self._pipes.log.info(line)

    def keep(self, path: Path) -> str:
        """Hand a file over as an artifact; returns the name that rows point to it by."""
        name = file_hash(path) + path.suffix
        shutil.move(path, self.directory / "artifacts" / name)
        return name

    def keep_copy(self, path: Path) -> str:
        """Hand a copy of a file over as an artifact; the file itself stays. Returns the artifact's name."""
        name = file_hash(path) + path.suffix
        shutil.copyfile(path, self.directory / "artifacts" / name)
        return name

    def check(
        self, name: str, passed: bool, metadata: Mapping[str, Any] | None = None, *, blocking: bool = True
    ) -> None:
        """Report an asset check; ``blocking`` ones are errors, the others warnings."""
        self._pipes.report_asset_check(name, passed, "ERROR" if blocking else "WARN", _for_pipes(metadata))

    def saved(self, step: int) -> None:
        """Say that a checkpoint was written: a job that meets its time limit is worth another submission then."""
        write_whole(self.directory / "checkpoint", lambda draft: draft.write_text(str(step)))

    def publish(self, frame: pl.DataFrame, metadata: Mapping[str, Any] | None = None) -> None:
        """Report the one result of the job.

        Raises
        ------
        FencedOut
            When a newer copy of the job has replaced this one.
        """
        require_fence()
        (self.directory / "versions.json").write_text(json.dumps(dict(deciding_versions())))
        frame.write_parquet(self.directory / "result.parquet")
        self._pipes.report_asset_materialization(_for_pipes(metadata), content_hash(frame))


@contextmanager
def open_job() -> Iterator[Job]:
    """The running job. Every workload's `main` is one ``with open_job() as job:`` block."""
    try:
        with open_dagster_pipes(message_writer=_NumberedMessages()) as pipes:
            yield Job(pipes)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        write_whole(_launch() / "error", lambda draft: draft.write_text(said))
        raise


class _NumberedMessages(PipesMessageWriter):
    """Appends messages to the launch's own file, numbered, so that a repeated line is recognised."""

    @contextmanager
    def open(self, params: Mapping[str, Any]) -> Iterator[PipesMessageWriterChannel]:
        yield _MessageFile(_launch() / "messages")


class _MessageFile(PipesMessageWriterChannel):
    def __init__(self, path: Path):
        self._path, self._number = path, 0

    def write_message(self, message: Mapping[str, Any]) -> None:
        self._number += 1
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"number": self._number, "message": message}) + "\n")


def _launch() -> Path:
    return Path(os.environ["TRACEBED_LAUNCH"])


def _for_pipes(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Pipes takes plain values and typed ones; lists and mappings are JSON."""
    return {
        name: {"raw_value": value, "type": "json"}
        if isinstance(value, list) or (isinstance(value, dict) and "raw_value" not in value)
        else value
        for name, value in (metadata or {}).items()
    }


def _reference(described: Mapping[str, Any]) -> TablePartition:
    return TablePartition(
        described["asset"],
        described["partition"],
        described["data_version"],
        described["run_id"],
        Path(described["address"]),
    )
