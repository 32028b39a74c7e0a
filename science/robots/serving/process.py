"""A policy server in a process of its own, started again at the same address when it dies.

Its port is bound here from the beginning to the end: a large policy loads for minutes, in which any other process could
otherwise be given the port.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

START_LIMIT_S = 900.0
"""Loading a large policy and compiling it for every batch size takes minutes."""

MAX_RESTARTS = 5

_END_S = 90.0
_LOOK_S = 0.05
_PAUSE_S = 2.0  # what the one before held, such as the memory of a GPU, may not be free at once
_LOG_TAIL_BYTES = 3000


class ServerDied(RuntimeError):
    """A server that did not come up, or died too often."""


class ServerProcess:
    """Use it in a `with`: it is ready on entry. It ends with the process that started it, whatever happens to that.

    Attributes
    ----------
    address : ws://127.0.0.1:port, the same after a restart.
    restarts : how often it died and was started again.
    """

    def __init__(
        self,
        policy: str,
        task: str,
        checkpoint: Path | None,
        *,
        environment: Mapping[str, str] | None = None,
        max_batch: int | None = None,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        """``environment`` is that of the server, `serving.KEY_VARIABLE` in it; default: this process's own."""
        self._asked = ["--policy", policy, "--task", task]
        self._asked += ["--checkpoint", str(checkpoint)] if checkpoint else []
        self._asked += ["--max-batch", str(max_batch)] if max_batch else []
        self._environment = dict(os.environ if environment is None else environment)
        self._environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._start_limit_s = start_limit_s
        self.restarts = 0
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._given_up = False

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the server that runs now."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start it and wait until clients can come.

        Raises
        ------
        ServerDied
            With the end of its log, when it does not come up.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="policy-server-")
        self._kept = keep_port()
        self._port = int(self._kept.getsockname()[1])
        started = threading.Event()
        # The kernel ends the server with the thread that started it, so one thread starts it every time.
        self._thread = threading.Thread(target=self._keep, args=[started], name="policy-server", daemon=True)
        self._thread.start()
        started.wait()
        try:
            self._wait_until_ready()
        except BaseException:  # also when interrupted: nobody else would end it
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: object) -> None:
        """End it: it answers what is in hand first.

        Raises
        ------
        ServerDied
            With the end of its log, in place of what was raised when it had died too often.
        """
        log = self.log()
        self._end()
        if self._given_up and isinstance(raised, Exception):
            died = f"died {self.restarts + 1} times and was not started again"
            raise ServerDied(f"the policy server {died}; the end of its log:\n{log}") from raised

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self._start_limit_s
        while not self._ready.exists():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline_s:
                what = "did not come up in time" if ended is None else f"ended with status {ended} as it started"
                raise ServerDied(f"the policy server {what}; the end of its log:\n{self.log()}")
            time.sleep(_LOOK_S)

    def _end(self) -> None:
        with self._starting:  # from here on none is started any more
            self._closing.set()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self._thread.join(_END_S)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()
        self._kept.close()
        self._folder.cleanup()

    def log(self) -> str:
        """The end of what it printed."""
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    @property
    def _ready(self) -> Path:
        return Path(self._folder.name) / "ready"

    def _start(self) -> bool:
        """Start it, unless this is about to end."""
        with self._starting, self._log.open("ab") as log:
            if self._closing.is_set():
                return False
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-m", "science.robots.serving.serve", *self._asked),
                    *("--port", str(self._port), "--ready", str(self._ready), "--parent", str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        return True

    def _keep(self, started: threading.Event) -> None:
        """Start it, and again when it dies, once it has come up."""
        try:
            self._start()
        finally:
            started.set()
        came_up = False
        while True:
            self._process.wait()
            was_ready = self._ready.exists()
            came_up = came_up or was_ready
            if self._closing.is_set() or not came_up:
                return
            if self.restarts == MAX_RESTARTS:
                self._given_up = True
                return
            self._ready.unlink(missing_ok=True)
            if not was_ready:
                self._closing.wait(_PAUSE_S)
            self.restarts += 1
            if not self._start():
                return


def keep_port() -> socket.socket:
    """A free port of this machine that no other process is given while the socket is open.

    It does not listen; a server of the same user that binds with SO_REUSEPORT can.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", 0))
    return kept
