"""A real sshd on loopback with keys of its own: a login node that tests connect to, cut off and restart."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from .processes import (
    Daemons,
    NotReadyError,
    absent,
    all_pids,
    binary,
    descendants,
    environment_of,
    free_ports,
    gone,
    kill_until_gone,
    listens,
    program,
)

ALIASES = ("login", "node", "an51", "an52", "an53")
PRIVILEGE_SEPARATION = Path("/run/sshd")
MARKER = "TRACEBED_TEST_SSHD"


class Sshd:
    """sshd on 127.0.0.1 that lets the current user in with a key; `ssh -F <ssh_config> login` gets there.

    Parameters
    ----------
    root
        Folder for keys, configuration and log; made if absent.
    port
        Loopback port; a free one is chosen where None.
    environment
        Variables that remote sessions see, e.g. `SlurmCluster.environment()`.
    user
        Who is let in; the current user where None. Another one needs root.
    pam_service
        PAM decides too, as this file of /etc/pam.d says (whoever makes the Sshd makes the file); its modules see
        `environment`. None: no PAM.
    """

    def __init__(
        self,
        root: Path,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        pam_service: str | None = None,
    ) -> None:
        self.root = root.resolve()
        self.port = port or free_ports(1)[0]
        self.user = user or pwd.getpwuid(os.geteuid()).pw_name
        self._pam_service = pam_service
        self._environment = dict(environment or {})
        self._daemons = Daemons(self.root)

    @staticmethod
    def missing() -> str | None:
        """Why sshd cannot run here, or None."""
        if lacking := absent(("sshd", "ssh", "ssh-keygen")):
            return f"sshd cannot run here: not installed: {', '.join(lacking)}"
        if not PRIVILEGE_SEPARATION.is_dir() and os.geteuid() != 0:
            return f"sshd cannot run here: no {PRIVILEGE_SEPARATION}, and only root can make it"
        return None

    @property
    def ssh_config(self) -> Path:
        """Client configuration (`ssh -F`): hosts login, node, an51-an53; the key; strict host keys."""
        return self.root / "ssh_config"

    @property
    def log(self) -> Path:
        return self._daemons.log("sshd")

    def environment(self) -> dict[str, str]:
        """Variables that a client needs: none, all is in `ssh_config`."""
        return {}

    def start(self) -> None:
        """Start it and wait until it listens."""
        if not self.ssh_config.exists():
            self._prepare()
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        argv = [str(self._program()), "-D", "-e", "-f", str(self.root / "sshd_config")]
        self._daemons.start("sshd", argv, os.environ | self._environment if self._pam_service else None)
        self._daemons.wait("sshd", lambda: listens(self.port))

    def stop(self) -> None:
        """Cut all connections and stop listening; what sessions started goes on, as when a login node's sshd ends."""
        listener = self._daemons.pid("sshd")
        if listener is not None:
            os.kill(listener, signal.SIGSTOP)  # so that no connection is accepted in between
            self.kill_connections()
        self._daemons.kill("sshd")

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and end what sessions started, also if detached; Slurm's jobs are Slurm's."""
        self.stop()
        kill_until_gone(self.session_processes)

    def __enter__(self) -> "Sshd":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def connections(self) -> set[int]:
        """Ids of the sshd processes that serve connections, without the listener."""
        listener = self._daemons.pid("sshd")
        if listener is None:
            return set()
        return {
            pid for pid in descendants([listener]) - {listener} if program(pid).startswith("sshd") and not gone(pid)
        }

    def kill_connections(self) -> None:
        """SIGKILL of the processes that serve connections: a broken line. Remote commands and the listener go on."""
        kill_until_gone(self.connections)

    def session_processes(self) -> set[int]:
        """Ids of what ssh sessions started here and that is not a Slurm job's."""
        mark = f"\0{MARKER}={self.root}\0".encode()
        found = set()
        for pid in all_pids():
            environment = environment_of(pid)
            if mark in environment and b"\0SLURM_JOB_ID=" not in environment:
                found.add(pid)
        return found

    def _program(self) -> Path:
        """sshd; it names its PAM service after the name that it was called by."""
        real = Path(str(binary("sshd")))
        if self._pam_service is None:
            return real
        link = self.root / self._pam_service
        if not link.is_symlink():
            link.symlink_to(real)
        return link

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "user_key"):
            make = [str(binary("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.root / name)]
            done = subprocess.run(make, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode:
                raise NotReadyError(f"ssh-keygen returned {done.returncode}: {done.stderr}")
        if self.user != pwd.getpwuid(os.geteuid()).pw_name:
            shutil.chown(self.root / "user_key", self.user)
        (self.root / "authorized_keys").write_text((self.root / "user_key.pub").read_text())
        host_key = (self.root / "host_key.pub").read_text()
        (self.root / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (self.root / "sshd_config").write_text(self._server_configuration())
        self.ssh_config.write_text(self._client_configuration())

    def _server_configuration(self) -> str:
        variables = self._environment | {MARKER: str(self.root)}
        # One line: of several SetEnv lines sshd takes the first.
        set_env = " ".join(f'"{name}={value}"' for name, value in variables.items())
        return f"""\
ListenAddress 127.0.0.1:{self.port}
HostKey {self.root}/host_key
AuthorizedKeysFile {self.root}/authorized_keys
PidFile {self.root}/sshd.pid
AllowUsers {self.user}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM {"yes" if self._pam_service else "no"}
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
LogLevel VERBOSE
SetEnv {set_env}
Subsystem sftp internal-sftp
"""

    def _client_configuration(self) -> str:
        return f"""\
Host {" ".join(ALIASES)} 127.0.0.1
    HostName 127.0.0.1
    Port {self.port}
    User {self.user}
    IdentityFile {self.root}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {self.root}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 10
"""
