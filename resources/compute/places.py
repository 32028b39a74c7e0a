"""Locks between processes, and a bounded number of places: a process that dies leaves its place at once."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.compute.interface import SiteUnavailable

_PAUSE_S = 0.05


@contextmanager
def take_place(
    folder: Path, places: int, timeout_s: float | None, what: str, waiting: Callable[[], object] | None = None
) -> Iterator[None]:
    """Hold one of ``places`` places; wait for one, and call ``waiting`` once if that is needed.

    Raises
    ------
    SiteUnavailable
        When none was free within ``timeout_s`` seconds (None: wait for ever).
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (held := _free_place(folder, places)) is None:
        if waiting is not None:
            waiting()
            waiting = None
        if deadline is not None and time.monotonic() > deadline:
            raise SiteUnavailable(f"none of the {places} {what} was free within {timeout_s:.0f} s")
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        os.close(held)


def _free_place(folder: Path, places: int) -> int | None:
    for number in range(places):
        descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return descriptor
    return None


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock; yields its descriptor, which a command may inherit and then holds too."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise SiteUnavailable(
                f"{path} cannot be locked ({error.strerror}): its file system was mounted without locks; mount it with "
                "them (Lustre: -o flock)"
            ) from error
        yield lock.fileno()
