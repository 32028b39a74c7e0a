"""Processes that a test cluster starts and ends: always by id, never by name."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

# Below Linux's ephemeral range (32768 on): no outgoing connection takes the port between the choice and its use.
PORTS = range(18_000, 32_000)
SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


class NotReadyError(RuntimeError):
    """Something that was waited for did not happen; the message ends with the log's last lines."""


def binary(name: str) -> str | None:
    """Absolute path of a command; daemons lie in sbin, which is not on everyone's PATH."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))


def absent(names: Iterable[str]) -> list[str]:
    """Those of `names` that are not installed."""
    return [name for name in names if binary(name) is None]


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that nobody listens on."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise NotReadyError(f"found {len(found)} free loopback ports in {PORTS}, expected {count}; end what holds them")


def listens(port: int) -> bool:
    """True where a loopback port accepts a connection."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(ready: Callable[[], object], timeout_s: float, what: str, log: Path | None = None) -> None:
    """Poll `ready` every 50 ms until it is true; NotReadyError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise NotReadyError(f"{what}: not so after {timeout_s:g} s{tail(log)}")
        time.sleep(0.05)


def tail(log: Path | None, lines: int = 12) -> str:
    """The last lines of a log, for error messages."""
    if log is None or not log.exists():
        return ""
    return f"\n{log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


class Daemons:
    """Named foreground processes with a log each; they are this process's children, so that ids stay ours."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `argv` in a session of its own (Ctrl-C does not reach it), unless `name` runs already."""
        if self.alive(name):
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
            )

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def pid(self, name: str) -> int | None:
        return self._running[name].pid if self.alive(name) else None

    def alive(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def wait(self, name: str, ready: Callable[[], object], timeout_s: float = 30) -> None:
        """Wait until `ready`; an exit of the daemon in the meantime is reported at once."""

        def alive_and_ready() -> object:
            if not self.alive(name):
                raise NotReadyError(f"{name} exited while it was waited for{tail(self.log(name))}")
            return ready()

        until(alive_and_ready, timeout_s, f"{name} is ready", self.log(name))

    def stop(self, *names: str, timeout_s: float = 10) -> None:
        """SIGTERM to all of `names` at once, SIGKILL to those left after `timeout_s`; returns when all are gone."""
        found = [process for name in names if (process := self._running.pop(name, None))]
        for process in found:
            process.terminate()
        end = time.monotonic() + timeout_s
        for process in found:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            process.kill()
            process.wait()

    def kill(self, name: str) -> None:
        """SIGKILL of this one process, as in a crash; its children go on."""
        if process := self._running.pop(name, None):
            process.kill()
            process.wait()


def all_pids() -> Iterator[int]:
    """Ids of all processes of the machine."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def environment_of(pid: int) -> bytes:
    """A process's environment as it was started, NUL between entries; empty where it is gone or not ours."""
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def program(pid: int) -> str:
    """Name of the file that a process executes; empty where it is gone (or a kernel thread)."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
    except OSError:
        return ""


def holds_file_under(pid: int, folder: Path) -> bool:
    """True where a process has a file or a unix socket open, or works, under `folder`."""
    sockets = _sockets_under(folder)
    links = [Path(f"/proc/{pid}/cwd")]
    with contextlib.suppress(OSError):
        links += Path(f"/proc/{pid}/fd").iterdir()
    for link in links:
        with contextlib.suppress(OSError):
            target = link.readlink()
            if target.is_relative_to(folder) or target.name in sockets:
                return True
    return False


def _sockets_under(folder: Path) -> set[str]:
    """Unix sockets bound under `folder`, named as in /proc/<pid>/fd; the kernel keeps the path of a removed one."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and Path(row[7]).is_relative_to(folder)}


def descendants(roots: Iterable[int]) -> set[int]:
    """`roots` and all their children's children, without this process."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found and pid != os.getpid():
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def gone(pid: int) -> bool:
    """True where a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL processes; one that has ended in the meantime is as good as killed."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_until_gone(find: Callable[[], set[int]], timeout_s: float = 10) -> None:
    """SIGKILL what `find` finds, again until it finds nothing that lives."""

    def none_left() -> bool:
        left = {pid for pid in find() if not gone(pid)}
        kill_all(left)
        return not left

    until(none_left, timeout_s, "killed processes are gone")
