"""The fence: a stale copy of a job may go on for a while, but it records nothing and writes no checkpoint.

A scheduler that starts a job again on another node cannot be sure that the first copy is dead. The fence file names the
launch that counts; whoever starts later takes it.
"""

from __future__ import annotations

import os
from pathlib import Path


class FencedOut(RuntimeError):
    """This copy of the job was replaced by a newer one."""


def require_fence() -> None:
    """Go on only as the launch that counts.

    Raises
    ------
    FencedOut
        When a newer launch has taken the fence.
    """
    held, newest = os.environ["TRACEBED_FENCE_HELD"], Path(os.environ["TRACEBED_FENCE"]).read_text().strip()
    if newest != held:
        raise FencedOut(
            f"this copy (submission and launch {held!r}) was replaced by {newest!r}: it records nothing more"
        )
