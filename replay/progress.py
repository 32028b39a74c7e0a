"""What the job of a replay prints, now and then, while the run has the terminal's output for itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Say = Callable[[str], object]

_EVERY_S = 5.0
_TAIL_BYTES = 2000


@contextlib.contextmanager
def last_lines(jobs: Path, say: Say, every_s: float = _EVERY_S) -> Iterator[None]:
    """Say the last line of the newest log below ``jobs`` whenever it has changed, from a thread of its own."""
    over = threading.Event()

    def follow() -> None:
        said = ""
        while not over.wait(every_s):
            line = _last_line(jobs)
            if line and line != said:
                say(line)
                said = line

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _last_line(jobs: Path) -> str:
    logs = sorted(jobs.glob("*/*/log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return ""
    with logs[-1].open("rb") as stream:
        stream.seek(max(0, logs[-1].stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
