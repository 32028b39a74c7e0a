"""Pipes context and messages that are part of a job's record.

Dagster's own file reader truncates the message file when it opens it and deletes it at the end, and its context
injector deletes the context; here both are kept. Whoever attaches to a job again reads all of its messages again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dagster as dg
from dagster._core.pipes.context import PipesMessageHandler
from dagster_pipes import PipesDefaultContextLoader, PipesParams

from resources.compute.job_directory import JobDirectory, Launch, write_text

_PAUSE_S = 0.2
_OPENED, _LOG = "opened", "log"


class KeptContext(dg.PipesContextInjector):
    """Writes the context into the job's directory, once, and leaves it there."""

    def __init__(self, job: JobDirectory):
        self._path = job.context

    @contextmanager
    def inject_context(self, context: Any) -> Iterator[PipesParams]:
        """Write the context unless the job has one."""
        if not self._path.exists():
            write_text(self._path, json.dumps(context))
        yield {PipesDefaultContextLoader.FILE_PATH_KEY: str(self._path)}

    def no_messages_debug_text(self) -> str:
        """Where one would look when nothing arrived."""
        return f"The context was written to {self._path}."


class JobMessageReader(dg.PipesMessageReader):
    """Feeds a job's messages to Dagster while it runs, whichever launch of it counts at the moment.

    Log lines of every launch are shown as they come. Results are handed over when the session closes, and only those of
    the launch that counts then: what a stale copy reported is never a result. A line whose number was seen before (a
    file system may repeat an append) is dropped.
    """

    def __init__(self, job: JobDirectory):
        self._job = job
        self._opened = False

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Read in a thread until the session closes, then once more to the end."""
        closed = Event()
        thread = Thread(target=self._read, args=(handler, closed), daemon=True)
        thread.start()
        try:
            yield {}  # a launch writes into its own folder
        finally:
            closed.set()
            thread.join()

    def _read(self, handler: PipesMessageHandler, closed: Event) -> None:
        files: dict[Path, _MessageFile] = {}
        try:
            while True:
                last = closed.is_set()
                launch = self._launch()
                if launch is not None:
                    file = files.setdefault(launch.path, _MessageFile(launch.messages))
                    for message in file.fresh():
                        self._show(handler, message)
                if last:
                    for message in file.results if launch is not None else ():
                        handler.handle_message(message)  # type: ignore[arg-type]
                    return
                closed.wait(_PAUSE_S)
        except Exception:  # noqa: BLE001 - a thread cannot raise: Dagster reports it in the run's log instead
            handler.report_pipes_framework_exception(f"reader of {self._job.path}", sys.exc_info())

    def _launch(self) -> Launch | None:
        numbers = self._job.submissions()
        return self._job.submission(numbers[-1]).launch() if numbers else None

    def _show(self, handler: PipesMessageHandler, message: Mapping[str, Any]) -> None:
        if message["method"] == _LOG or (message["method"] == _OPENED and not self._opened):
            self._opened = True
            handler.handle_message(message)  # type: ignore[arg-type]

    @property
    def expected_writer_count(self) -> int:
        """One launch counts."""
        return 1

    def no_messages_debug_text(self) -> str:
        """Where one would look when nothing arrived."""
        return f"Attempted to read messages from {self._job.path}/*/launches/*/messages."


class _MessageFile:
    """The messages of one launch, read as they are appended."""

    def __init__(self, path: Path):
        self._path, self._offset, self._number = path, 0, 0
        self.results: list[Mapping[str, Any]] = []

    def fresh(self) -> Iterator[Mapping[str, Any]]:
        """Messages since the last call; results are also kept in ``results``."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # the rest of it is still to come
                self._offset += len(line)
                content = json.loads(line)
                if content["number"] <= self._number:
                    continue
                self._number = content["number"]
                if content["message"]["method"] not in (_LOG, _OPENED):
                    self.results.append(content["message"])
                yield content["message"]
