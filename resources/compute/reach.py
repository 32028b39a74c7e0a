"""How a site is reached: commands are run on this host, or on another one through the system's `ssh`.

Only argument vectors are sent, each argument quoted once for the other side's shell; code is uploaded as a file. The
system's `ssh` honours the user's configuration, jump hosts and Kerberos; a human may log in once (`tracebed site
login`), and every command then goes through that connection's control socket.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resources.compute.interface import SiteUnavailable
from resources.compute.places import locked, take_place

TIMEOUT_S = 30.0
_SSH_FAILED = 255
_CHANNELS = 8  # sshd's MaxSessions is 10
REFUSED_WITHOUT_JOB = "Access denied by pam_slurm_adopt"
_LONGEST_SOCKET = 107 - len(".1234567890abcdef")  # bytes; ssh binds it under a longer name first


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def said(self) -> str:
        """What it said of its failure, on one line."""
        return " ".join((self.err or self.out).split())[-500:] or f"exit code {self.code}"


class Reach(Protocol):
    """Runs commands where a site is."""

    @property
    def where(self) -> str:
        """The host, in words."""

    def run(
        self, argv: Sequence[str], *, send: str = "", timeout_s: float = TIMEOUT_S, hold: Sequence[int] = ()
    ) -> Done:
        """Run a command to its end, ``send`` being its standard input.

        ``hold`` are file descriptors (locks) that stay open while the command lives, also when this process dies.

        Raises
        ------
        SiteUnavailable
            When the host cannot be reached, or the command has not ended in time.
        """


@dataclass(frozen=True)
class Here:
    """This host."""

    @property
    def where(self) -> str:
        return os.uname().nodename

    def run(
        self, argv: Sequence[str], *, send: str = "", timeout_s: float = TIMEOUT_S, hold: Sequence[int] = ()
    ) -> Done:
        """Run a command here; see `Reach.run`."""
        return _run(argv, send, timeout_s, hold)


@dataclass(frozen=True)
class Ssh:
    """Another host, through the system's `ssh`.

    Attributes
    ----------
    host, user, port : where, and as whom; a user name is never guessed.
    config : a file for `ssh -F`; None: the user's own.
    shared : whether commands go through one connection that stays open; else each has one of its own.
    """

    host: str
    user: str
    port: int | None = None
    config: Path | None = None
    shared: bool = True

    @property
    def where(self) -> str:
        return f"{self.user}@{self.host}"

    def run(
        self, argv: Sequence[str], *, send: str = "", timeout_s: float = TIMEOUT_S, hold: Sequence[int] = ()
    ) -> Done:
        """Run a command there; see `Reach.run`."""
        if self.shared:
            self._open()
        with take_place(self._folder / "channels", _CHANNELS, timeout_s, f"channels to {self.where}"):
            done = _run(
                [*self.command("ControlMaster=no", "BatchMode=yes"), shlex.join(argv)],
                send,
                timeout_s,
                hold,
            )
        if done.code == _SSH_FAILED:
            raise SiteUnavailable(f"{self.where} cannot be reached: {explained(done.said(), self.host)}")
        return done

    def upload(self, content: bytes, remote: str) -> None:
        """Write a file there, under a temporary name first.

        Raises
        ------
        SiteUnavailable
            When it cannot be written.
        """
        draft = f"{remote}.part-{secrets.token_hex(6)}"  # hosts share the folder, and their process ids
        for argv, sent in (
            (["mkdir", "-p", "-m", "700", str(Path(remote).parent)], ""),
            (["tee", draft], content.decode()),
            (["mv", "-f", draft, remote], ""),
        ):
            done = self.run(argv, send=sent)
            if done.code or done.out != sent:  # tee says what it was given: less where the line broke
                raise SiteUnavailable(f"{remote} cannot be written on {self.where}: {done.said()}")

    def command(self, *options: str) -> list[str]:
        """The `ssh` command up to and including the host."""
        every = (
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=10",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
            f"ControlPath={self.socket if self.shared else 'none'}",
            *options,
        )
        config = ["-F", str(self.config)] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        flags = [part for option in every for part in ("-o", option)]
        return ["ssh", *config, *port, "-T", "-l", self.user, *flags, self.host]

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self._folder / "socket"

    @property
    def _folder(self) -> Path:
        # Short, since a socket's path may have 107 bytes, and of this user alone.
        name = hashlib.sha256(f"{self.user}@{self.host}:{self.port} {self.config}".encode()).hexdigest()[:12]
        parent = Path(tempfile.gettempdir()) / f"tracebed-{os.getuid()}"
        if len(os.fsencode(parent / name / "socket")) > _LONGEST_SOCKET:
            parent = Path("/tmp") / parent.name
        for folder in (parent, parent / name):
            folder.mkdir(exist_ok=True, mode=0o700)
            found = folder.lstat()
            if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
                raise SiteUnavailable(f"{folder} belongs to another user: no control socket is put there; remove it")
            if found.st_mode & 0o077:
                folder.chmod(0o700)
        return parent / name

    def _open(self) -> None:
        """Open the shared connection unless it is open."""
        with locked(self._folder / "lock"):
            if self.socket.exists():
                check = _run([*self.command()[:-1], "-O", "check", self.host], "", TIMEOUT_S, ())
                if check.code == 0:
                    return
                self.socket.unlink(missing_ok=True)
            with (self._folder / "master.log").open("w") as log:
                # Its output goes to a file: the connection outlives the command, and would hold a pipe open.
                argv = self.command("ControlMaster=yes", "ControlPersist=3600", "BatchMode=yes")
                try:
                    opened = subprocess.run(
                        [*argv[:-1], "-N", "-f", argv[-1]],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        timeout=TIMEOUT_S,
                        check=False,
                    )
                except subprocess.TimeoutExpired as late:
                    raise SiteUnavailable(f"{self.where} has not let us in within {TIMEOUT_S:.0f} s") from late
            if opened.returncode:
                said = " ".join((self._folder / "master.log").read_text().split())
                raise SiteUnavailable(f"{self.where} cannot be reached: {explained(said, self.host)}")


def explained(said: str, host: str) -> str:
    """What `ssh` said, and what to do about it."""
    cures = {
        REFUSED_WITHOUT_JOB: (
            "this node lets in only users who have a job on it. Give the site `inside_allocation = true`: the platform "
            "then asks the scheduler for an allocation on the node first"
        ),
        # First: ssh ends with "Host key verification failed" then too, and nobody must be told to accept such a key.
        "REMOTE HOST IDENTIFICATION HAS CHANGED": (
            "its host key is another one than before: find out why, and only then replace its line in known_hosts"
        ),
        "Host key verification failed": (
            f"its host key is not known here. Look at it, then: ssh-keyscan {host} >> ~/.ssh/known_hosts"
        ),
        "Permission denied": (
            "it takes no key of ours. Put one there (ssh-copy-id), or log in by hand once: `tracebed site login NAME`"
        ),
        "Could not resolve hostname": f"no such host: mend `host` of the site in sites.toml (found {host!r})",
        "Connection refused": "nothing listens there: mend `port` of the site in sites.toml, or its sshd is down",
        "timed out": "it does not answer: mend `host` of the site in sites.toml, or it is down or behind a firewall",
    }
    cure = next((cure for sign, cure in cures.items() if sign in said), None)
    return f"{said}. {cure}" if cure else said


def _run(argv: Sequence[str], send: str, timeout_s: float, hold: Sequence[int]) -> Done:
    try:
        ended = subprocess.run(
            list(argv),
            input=send.encode(),
            capture_output=True,
            timeout=timeout_s,
            pass_fds=tuple(hold),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise SiteUnavailable(f"`{argv[0]}` has not answered within {timeout_s:.0f} s") from late
    except FileNotFoundError as missing:
        raise SiteUnavailable(f"this host has no command {argv[0]!r}; mend `commands` in sites.toml") from missing
    return Done(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
