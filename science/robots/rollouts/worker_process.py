"""A worker process as the pool sees it: how it is started, addressed, asked where it hangs, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from science.robots.rollouts.pool import RolloutRequest

_WHERE_S = 0.3
_LOG_TAIL_BYTES = 3000
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerProcess:
    """A worker process, seen from the pool.

    Attributes
    ----------
    request : what it is prepared for; None before.
    engine : name of the control step of its simulation.
    episode : seed and arm that it has in hand; None while it prepares.
    busy : it owes an answer, which is due at ``deadline_s`` of the monotonic clock.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it; ``environment`` is this process's own unless another is given."""
        ours, theirs = socket.socketpair()
        # Policies and simulators print as they like: to a file without a name, read when something goes wrong.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `kill` closes it
        environment = {**(os.environ if environment is None else environment), **dict.fromkeys(_ONE_THREAD, "1")}
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        descriptor = theirs.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "science.robots.rollouts.worker", str(descriptor), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            pass_fds=[descriptor],
            start_new_session=True,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.request: RolloutRequest | None = None
        self.engine = ""
        self.episode: tuple[int, str] | None = None
        self.busy = False
        self.began_s = 0.0
        self.deadline_s = 0.0

    def send(self, message: tuple[object, ...], limit_s: float) -> None:
        """Give it something to do. That it died meanwhile shows when the answer is read."""
        self.busy = True
        self.began_s = time.monotonic()
        self.deadline_s = self.began_s + limit_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def kill(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self._log.close()

    def ending(self) -> str:
        """How the process of a closed connection ended, and the end of its log."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its connection" + self.log()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
        return how + self.log()

    def where(self) -> str:
        """Where a worker that does not answer is, as a traceback."""
        before = os.fstat(self._log.fileno()).st_size
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        time.sleep(_WHERE_S)
        return self.log(before)

    def log(self, since: int = 0) -> str:
        """The end of what it printed, on lines of its own."""
        # pread: the file's position is the worker's own.
        size = os.fstat(self._log.fileno()).st_size
        start = max(since, size - _LOG_TAIL_BYTES)
        text = os.pread(self._log.fileno(), size - start, start).decode(errors="replace").strip()
        return f"\n{text}" if text else ""
