"""A real Slurm on one machine: controller, nodes, accounting, that tests start, break and stop.

Needs root and Debian's packages (`missing()` says which are absent). Everything lies under `root`; /etc/slurm is
neither read nor written. The nodes are one slurmd each on this host, with fake GPUs.
"""

import os
import secrets
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from . import slurm_files
from .processes import (
    Daemons,
    NotReadyError,
    absent,
    all_pids,
    binary,
    descendants,
    environment_of,
    free_ports,
    holds_file_under,
    kill_until_gone,
    listens,
    program,
    until,
)

CLIENTS = {
    name: f"s{name}" for name in ("batch", "run", "queue", "acct", "cancel", "control", "alloc", "info", "acctmgr")
}
CLIENTS["control"] = "scontrol"
CORE = (
    "slurmctld",
    "slurmd",
    "slurmstepd",
    "munged",
    "sbatch",
    "srun",
    "squeue",
    "sacct",
    "scancel",
    "scontrol",
    "sinfo",
)
ACCOUNTING = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
LONGEST_ROOT = 60  # a unix socket's path has at most 107 characters


class SlurmCluster:
    """slurmctld, one slurmd per node, munged and, with `accounting`, slurmdbd on a MariaDB of its own.

    Parameters
    ----------
    root
        An empty or new folder with a short path, e.g. `/tmp/tb-x1`; other users must be able to enter it.
    accounting
        False starts in a few seconds; sacct then says that accounting is disabled.
    command_prefix
        "yh" makes `run("sbatch", ...)` call `yhbatch`, and puts such commands first on `environment()`'s PATH.
    slurmd_timeout_s
        Slurm's SlurmdTimeout, from which on a silent node is down.
    message_timeout_s
        Slurm's MessageTimeout. A killed node was declared down after 16-23 s at 5 s, after 26-32 s at Slurm's 10 s.
    settings
        Lines of slurm.conf, key and value, instead of or besides the usual ones.
    """

    def __init__(
        self,
        root: Path,
        *,
        accounting: bool = True,
        nodes: tuple[str, ...] = ("an51", "an52", "an53"),
        command_prefix: str = "",
        slurmd_timeout_s: int = 15,
        message_timeout_s: int = 5,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root.resolve()
        if len(str(self.root)) > LONGEST_ROOT:
            raise ValueError(
                f"{self.root} is longer than {LONGEST_ROOT} characters: sockets do not fit; choose /tmp/..."
            )
        self.nodes = nodes
        self.accounting = accounting
        self.command_prefix = command_prefix
        self._slurmd_timeout_s = slurmd_timeout_s
        self._message_timeout_s = message_timeout_s
        self._settings = dict(settings or {})
        self._daemons = Daemons(self.root / "log")
        self._layout: slurm_files.Layout | None = None

    @staticmethod
    def missing(accounting: bool = True) -> str | None:
        """Why Slurm cannot run here, or None."""
        if os.geteuid() != 0:
            return "Slurm's daemons need root"
        if lacking := absent(CORE + (ACCOUNTING if accounting else ())):
            return f"Slurm cannot run here: not installed: {', '.join(lacking)}"
        with tempfile.TemporaryDirectory(prefix="tb-") as folder:
            try:
                os.mknod(Path(folder) / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                return "Slurm cannot run here: mknod is not permitted, so that there are no fake GPUs"
        return None

    # What a test sees of it

    def environment(self) -> dict[str, str]:
        """Variables that a client needs, to be added to os.environ."""
        found = {"SLURM_CONF": str(self._at.conf)}
        if self.command_prefix:
            found["PATH"] = f"{self.named_commands(self.command_prefix)}{os.pathsep}{os.environ.get('PATH', '')}"
        return found

    def run(
        self, *argv: str, check: bool = True, timeout_s: float = 60, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command with the cluster's environment; with `check`, a failure raises with its stderr."""
        command, *rest = argv
        done = subprocess.run(
            [self._named(command), *rest],
            env=self._process_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            user=user,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{' '.join(argv)} returned {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done

    def node_state(self, name: str) -> str:
        """State as sinfo has it, in capitals with its flag: `IDLE`, `MIXED`, `DOWN`, `DOWN*`, `DRAINED`."""
        return self.run("sinfo", "--noheader", "--Node", "--nodes", name, "--format=%T").stdout.split()[0].upper()

    def yh_commands(self) -> Path:
        """A folder of yhbatch, yhrun, yhqueue, ...: another site's names for the same commands."""
        return self.named_commands("yh")

    def named_commands(self, prefix: str) -> Path:
        """A folder of Slurm's client commands under other names: `prefix` and batch, run, queue, acct, ..."""
        folder = self.root / f"{prefix}-commands"
        folder.mkdir(exist_ok=True)
        for name, real in CLIENTS.items():
            target = binary(real)
            if target and not (link := folder / f"{prefix}{name}").exists():
                link.symlink_to(target)
        return folder

    # Start and stop

    def start(self) -> None:
        """Start everything and wait until all nodes are idle; what did start is stopped again on a failure."""
        if self._layout is not None:
            raise RuntimeError(f"the cluster in {self.root} was started already; make another one")
        try:
            self._prepare()
            self._start_munged()
            if self.accounting:
                self._start_database()
                self.start_slurmdbd()
                self._register()
            self._start_slurmctld()
            for name in self.nodes:
                self._start_slurmd(name)
            self.wait_ready()
        except BaseException:  # also when interrupted: nobody else would end the daemons
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of the cluster, jobs included. The files stay."""
        self._daemons.stop("slurmctld", *map(_slurmd, self.nodes))
        kill_until_gone(self.job_processes)
        for name in ("slurmdbd", "mariadbd", "munged"):
            self._daemons.stop(name)

    def __enter__(self) -> "SlurmCluster":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the controller answers and all nodes are idle."""
        until(self._all_idle, timeout, f"nodes {', '.join(self.nodes)} are idle", self._daemons.log("slurmctld"))

    def reset(self) -> None:
        """As new for the next test: no jobs, all daemons run, all nodes idle."""
        if self._all_run() and not self._jobs() and self._all_idle():
            return
        self._restart_missing()
        if jobs := self._jobs():
            self.run("scancel", *jobs, check=False)
        for name in self.nodes:
            if self.node_state(name).startswith(("DOWN", "DRAIN", "FAIL")):
                self.resume_node(name)
        for partition in ("gpu", "urgent"):
            self.run("scontrol", "update", f"PartitionName={partition}", "State=UP")
        until(lambda: not self._jobs(), 60, "all jobs are cancelled", self._daemons.log("slurmctld"))
        kill_until_gone(self.job_processes)
        self.wait_ready()

    # Break and mend

    def kill_node(self, name: str) -> None:
        """SIGKILL of one slurmd: a node failure. Its jobs' processes go on."""
        self._daemons.kill(_slurmd(name))

    def start_node(self, name: str) -> None:
        """Start a killed node's slurmd and wait until it listens."""
        self._start_slurmd(name)
        self._daemons.wait(_slurmd(name), lambda: listens(self._at.node_ports[name]))

    def resume_node(self, name: str) -> None:
        """Make a down or drained node usable again; no error where it is."""
        self.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)

    def stop_controller(self) -> None:
        self._daemons.stop("slurmctld")

    def start_controller(self) -> None:
        self._start_slurmctld()
        self._daemons.wait("slurmctld", lambda: self.run("scontrol", "ping", check=False).returncode == 0)

    def stop_slurmdbd(self) -> None:
        self._daemons.stop("slurmdbd")

    def start_slurmdbd(self) -> None:
        # Both clients of the database look for its socket there: slurmdbd.conf has no setting for it.
        environment = self._process_environment() | {"MYSQL_UNIX_PORT": str(self._at.database_socket)}
        self._daemons.start("slurmdbd", [_path("slurmdbd"), "-D"], environment)
        self._daemons.wait("slurmdbd", lambda: listens(self._at.slurmdbd_port))

    def job_processes(self) -> set[int]:
        """Ids of this cluster's step daemons and of what they started."""
        conf = str(self._at.conf).encode() if self._layout else b"\0"
        found = set()
        for pid in all_pids():
            # Debian's is slurmstepd-wlm. Its title overwrites its environment; its socket in the spool tells.
            if program(pid).startswith("slurmstepd") and holds_file_under(pid, self.root):
                found.add(pid)
            environment = environment_of(pid)
            if b"\0SLURM_JOB_ID=" in environment and b"\0SLURM_CONF=" + conf + b"\0" in environment:
                found.add(pid)
        return descendants(found)

    # How

    @property
    def _at(self) -> slurm_files.Layout:
        if self._layout is None:
            raise RuntimeError("the cluster was not started: its ports and files are chosen by start()")
        return self._layout

    def _process_environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
        return outside | self.environment()

    def _named(self, command: str) -> str:
        if not self.command_prefix:
            return binary(command) or command
        names = {real: f"{self.command_prefix}{name}" for name, real in CLIENTS.items()}
        folder = self.named_commands(self.command_prefix)
        return str(folder / names[command]) if command in names else command

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        controller, slurmdbd, *node_ports = free_ports(2 + len(self.nodes))
        at = self._layout = slurm_files.Layout(
            root=self.root,
            hostname=socket.gethostname().partition(".")[0],
            controller_port=controller,
            slurmdbd_port=slurmdbd,
            node_ports=dict(zip(self.nodes, node_ports, strict=True)),
            slurmd_timeout_s=self._slurmd_timeout_s,
            message_timeout_s=self._message_timeout_s,
            accounting=self.accounting,
            settings=self._settings,
        )
        for folder in (at.munge_socket.parent, at.root / "state", at.devices, *map(at.spool, self.nodes)):
            folder.mkdir(mode=0o755, parents=True)
        for index in range(slurm_files.GPUS):
            os.mknod(at.devices / f"nvidia{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        at.munge_key.touch(mode=0o600)
        at.munge_key.write_bytes(secrets.token_bytes(128))
        slurm_files.write(at)

    def _start_munged(self) -> None:
        at = self._at
        files = {"socket": at.munge_socket, "key-file": at.munge_key}
        files |= {f"{kind}-file": at.root / "munge" / kind for kind in ("pid", "seed")}
        options = [f"--{name}={file}" for name, file in files.items()]
        self._daemons.start("munged", [_path("munged"), "--foreground", "--force", *options])
        self._daemons.wait("munged", at.munge_socket.exists)

    def _start_database(self) -> None:
        at = self._at
        options = ["--no-defaults", "--user=root", f"--datadir={at.database}"]
        install = [_path("mariadb-install-db"), *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise NotReadyError(f"mariadb-install-db returned {done.returncode}: {done.stderr}{done.stdout}")
        options += [f"--socket={at.database_socket}", f"--pid-file={at.root}/mariadbd.pid", "--skip-networking"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", "--skip-log-bin"]
        self._daemons.start("mariadbd", [_path("mariadbd"), *options])
        self._daemons.wait("mariadbd", at.database_socket.exists)

    def _register(self) -> None:
        for words in (
            "add cluster testbed",
            "add account lab cluster=testbed",
            "add user root,nobody account=lab cluster=testbed",
            "modify user root set defaultaccount=lab",
        ):
            self.run("sacctmgr", "--immediate", *words.split())

    def _start_slurmctld(self) -> None:
        self._daemons.start("slurmctld", [_path("slurmctld"), "-D"], self._process_environment())
        self._daemons.wait("slurmctld", lambda: listens(self._at.controller_port))

    def _start_slurmd(self, name: str) -> None:
        self._daemons.start(_slurmd(name), [_path("slurmd"), "-D", "-N", name], self._process_environment())

    def _all_run(self) -> bool:
        names = [
            "munged",
            "slurmctld",
            *map(_slurmd, self.nodes),
            *(("mariadbd", "slurmdbd") if self.accounting else ()),
        ]
        return all(map(self._daemons.alive, names))

    def _restart_missing(self) -> None:
        if self.accounting:
            self.start_slurmdbd()
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)

    def _jobs(self) -> list[str]:
        listed = self.run("squeue", "--noheader", "--all", "--format=%F").stdout.split()
        return sorted(set(listed))

    def _all_idle(self) -> bool:
        listed = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
        return listed.returncode == 0 and set(listed.stdout.splitlines()) == {f"{name} idle" for name in self.nodes}


def _slurmd(node: str) -> str:
    return f"slurmd.{node}"


def _path(name: str) -> str:
    found = binary(name)
    if found is None:
        raise NotReadyError(f"{name} is not installed; SlurmCluster.missing() lists all that are absent")
    return found
