"""A policy server in a process of its own, started again at the same address when it dies."""

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
        self._port = _free_port()
        started = threading.Event()
        # The kernel ends the server with the thread that started it, so one thread starts it every time.
        self._thread = threading.Thread(target=self._keep, args=[started], name="policy-server", daemon=True)
        self._thread.start()
        started.wait()
        deadline_s = time.monotonic() + self._start_limit_s
        while not self._ready.exists():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline_s:
                log = self.log()
                self.__exit__()
                what = "did not come up in time" if ended is None else f"ended with status {ended} as it started"
                raise ServerDied(f"the policy server {what}; the end of its log:\n{log}")
            time.sleep(_LOOK_S)
        return self

    def __exit__(self, *exception: object) -> None:
        """End it: it answers what is in hand first."""
        self._closing.set()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join()
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

    def _start(self) -> None:
        with self._log.open("ab") as log:
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

    def _keep(self, started: threading.Event) -> None:
        """Start it, and again when it dies after it was ready."""
        self._start()
        started.set()
        while True:
            self._process.wait()
            if self._closing.is_set() or not self._ready.exists() or self.restarts == MAX_RESTARTS:
                return
            self._ready.unlink()
            self.restarts += 1
            self._start()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
