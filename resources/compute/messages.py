"""A Pipes message reader for job directories.

Dagster's own file reader truncates the message file when it opens it and deletes it at the end; a job's messages are
part of its record, so this one only ever reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import dagster as dg
from dagster._core.pipes.context import PipesMessageHandler
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

_PAUSE_S = 0.2


class JobMessageReader(dg.PipesMessageReader):
    """Feeds the messages of a file to Dagster while the file grows."""

    def __init__(self, path: Path):
        self._path = path

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Read in a thread until the session closes, then once more to the end."""
        closed = Event()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        thread = Thread(target=self._read, args=(handler, closed), daemon=True)
        thread.start()
        try:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
        finally:
            closed.set()
            thread.join()

    def _read(self, handler: PipesMessageHandler, closed: Event) -> None:
        try:
            for line in self._lines(closed):
                handler.handle_message(json.loads(line))
        except Exception:  # noqa: BLE001 - a thread cannot raise: Dagster reports it in the run's log instead
            handler.report_pipes_framework_exception(f"reader of {self._path}", sys.exc_info())

    def _lines(self, closed: Event) -> Iterator[str]:
        with self._path.open(encoding="utf-8") as stream:
            partial = ""
            while True:
                last = closed.is_set()
                while piece := stream.readline():
                    partial += piece
                    if partial.endswith("\n"):
                        yield partial
                        partial = ""
                if last:
                    return
                closed.wait(_PAUSE_S)

    @property
    def expected_writer_count(self) -> int:
        """A job is one writer."""
        return 1

    def no_messages_debug_text(self) -> str:
        """Where one would look when nothing arrived."""
        return f"Attempted to read messages from {self._path}."
