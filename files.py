"""Writing a file so that a reader finds all of it or nothing: a hidden draft beside it, flushed, then renamed.

A process that dies at any instruction leaves at most a draft, whose name begins with `DRAFT_PREFIX`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

DRAFT_PREFIX = ".draft-"


def write_whole(destination: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(draft)`` and rename the draft to ``destination``; whatever fails leaves the old file as it was.

    Raises
    ------
    OSError
        When the folder is full or not writable.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    draft = destination.parent / f"{DRAFT_PREFIX}{destination.name}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        write(draft)
        _flush(draft)
        draft.replace(destination)
    finally:
        draft.unlink(missing_ok=True)
    _flush(destination.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
