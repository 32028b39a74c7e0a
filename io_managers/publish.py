"""Publishing a file so that a reader sees the old bytes whole or the new bytes whole, never anything between.

The draft is written beside its destination under a hidden name, flushed to the disk, renamed over the old file, and the
rename itself is flushed. A process that dies at any instruction leaves at most a draft, which `sweep` removes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from files import DRAFT_PREFIX, write_whole

DRAFT_LIFETIME_S = 24 * 3600.0


def publish_file(destination: Path, write: Callable[[Path], object]) -> None:
    """Write a draft with ``write(path)`` and rename it to ``destination``.

    Raises
    ------
    OSError
        When the disk is full or not writable; the message names the destination, which keeps its old content.
    """
    try:
        write_whole(destination, write)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not publish {destination}: {error.strerror or error}. What was there before is unchanged; "
            "free some space (or mend the permissions) and materialise again",
        ) from error


def sweep(folder: Path, older_than_s: float = DRAFT_LIFETIME_S) -> list[Path]:
    """Remove drafts that dead writers left behind; returns what was removed."""
    return [draft for draft in _drafts(folder) if _remove_if_old(draft, older_than_s)]


def _drafts(folder: Path) -> Iterator[Path]:
    return folder.rglob(f"{DRAFT_PREFIX}*")


def _remove_if_old(draft: Path, older_than_s: float) -> bool:
    try:
        if time.time() - draft.stat().st_mtime <= older_than_s:
            return False
        draft.unlink()
    except FileNotFoundError:  # its writer has just published or removed it
        return False
    return True
