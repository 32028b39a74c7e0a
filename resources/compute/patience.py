"""When to believe that a job has ended although it left no exit file."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from resources.compute.endings import Seen
from resources.compute.interface import State
from resources.compute.job_directory import SubmissionDirectory

GRACE_S = 10.0
"""How long an exit file may take to appear on a shared file system after the scheduler called the job ended."""
_QUIET_S = 60.0


class Patience:
    """Doubts the first word of an end for which a job left no exit file.

    A shared file system may show the file some seconds later, and a job of which nobody keeps account lives as long as
    its heart beats.
    """

    def __init__(self, grace_s: float = GRACE_S):
        self._grace_s = grace_s
        self._since: dict[tuple[Path, str | None], float] = {}

    def believed(self, files: SubmissionDirectory, seen: Seen) -> Seen:
        """What to believe of what a site said."""
        launch = files.launch()
        if seen.state != State.ENDED:
            return seen
        if launch is not None:
            os.scandir(launch.path).close()  # a network file system looks anew at a folder that is opened
            if launch.exit_code() is not None:
                return seen
        # A word such as NODE_FAIL needs no exit file to be believed; "gone" and COMPLETED do, and what is called FAILED
        # after it was launched has more to say than that.
        if seen.word not in ("", "COMPLETED", "gone") and not (seen.word == "FAILED" and launch is not None):
            return seen
        beat = (files.path, launch.heartbeat() if launch else None)
        ended_for = time.monotonic() - self._since.setdefault(beat, time.monotonic())
        if ended_for >= (self._grace_s if seen.word else _QUIET_S):
            return seen
        return replace(seen, state=State.UNKNOWN, detail=f"{seen.word or seen.detail}, waiting for its exit file")
