"""Nodes that let in only who has a job there: the real pam_slurm_adopt, of a real sshd, before a real Slurm.

Slurm tracks processes with cgroups here, and an sshd of another name has a PAM service of its own: the machine's is not
touched. The module lets root in whatever it is told, so that the platform is another user here, made for these tests.
Where the kernel's cgroups cannot be used, the tests are skipped with what slurmd said.
"""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.folders import short_folder
from cluster.processes import NotReadyError, all_pids, binary, environment_of, gone, kill_until_gone
from cluster.slurm import SlurmCluster
from cluster.sshd import Sshd
from fault_jobs import Bench, until

from resources.compute.interface import Ending, Handle, Needs, SiteUnavailable, Status
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.processes import SUPERVISOR
from resources.compute.sites import Site

pytestmark = pytest.mark.xdist_group("slurm")

NAME = f"tb-adopt-{os.getpid()}"
NODE = f"ad{os.getpid()}x"  # names its cgroup: no other one of this machine has it, or has it as a part of its name
REFUSAL = "Access denied by pam_slurm_adopt: you have no active jobs on this node"
CGROUPS = Path("/sys/fs/cgroup")
SETTINGS = {
    "ProctrackType": "proctrack/cgroup",
    "PrologFlags": "Contain",
    "SlurmdDebug": "debug",
    "KillWait": "2",
}
PAM = """\
auth required pam_deny.so
account required {module} service={name} nodename={node} action_no_jobs=deny action_unknown=newest \
action_adopt_failure=deny action_generic_failure=deny
session required pam_permit.so
"""
# Stands for the workload's Python: root's may lie where no other user reads it.
WORKLOAD = """\
#!/bin/sh
echo "working, CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"
setsid sleep 600 &
sleep 600
"""


class Contained(SlurmCluster):
    """One node, in cgroups; a slurmd that gives up is reported at once."""

    def wait_ready(self, timeout: float = 60) -> None:
        self._daemons.wait(f"slurmd.{NODE}", self._all_idle, timeout)

    def said(self) -> str:
        """slurmd's errors, on one line."""
        log = self._daemons.log(f"slurmd.{NODE}")
        lines = log.read_text().splitlines() if log.exists() else []
        return "; ".join(line.partition(": ")[2] for line in lines if "error" in line or "fatal" in line)[-600:]


@dataclass(frozen=True)
class Lab:
    """The cluster, a user of it, and how this user gets to its login node and its node."""

    slurm: Contained
    user: pwd.struct_passwd
    ssh_config: Path
    folder: Path
    node: Sshd

    def admin(self, *argv: str) -> str:
        """What a command of Slurm's says to root."""
        with identity(0, 0):
            return self.slurm.run(*argv).stdout.strip()

    def jobs(self) -> list[str]:
        """The user's jobs that wait, run or are being ended."""
        return self.admin("squeue", "--noheader", "--format=%i", f"--user={NAME}").split()


@contextlib.contextmanager
def identity(uid: int, gid: int) -> Iterator[None]:
    """This process and what it starts are a user's; the way back to root is kept, for this process alone."""
    users, groups, others = os.getresuid(), os.getresgid(), os.getgroups()
    os.setresuid(0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(gid, gid, 0)
        os.setresuid(uid, uid, 0)
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(*groups)
        os.setgroups(others)
        os.setresuid(*users)


def missing() -> str | None:
    if reason := SlurmCluster.missing(accounting=False) or Sshd.missing():
        return reason
    if lacking := [name for name in ("useradd", "userdel") if binary(name) is None]:
        return f"pam_slurm_adopt cannot be tried here: not installed: {', '.join(lacking)}"
    if module() is None:
        return "pam_slurm_adopt is not installed (Debian: libpam-slurm-adopt)"
    return None


def module() -> Path | None:
    places = (Path("/lib/security"), Path("/lib64/security"), *Path("/lib").glob("*-linux-gnu/security"))
    return next((found for place in places if (found := place / "pam_slurm_adopt.so").exists()), None)


@contextlib.contextmanager
def contained_slurm(folder: Path) -> Iterator[Contained]:
    """Slurm in cgroups; its jobs and cgroups are gone afterwards."""
    slurm = Contained(folder, accounting=False, nodes=(NODE,), settings=SETTINGS)
    try:
        try:
            slurm.start()
            refuse_without_cgroups(slurm, folder)
        except NotReadyError as error:
            pytest.skip(f"Slurm with proctrack/cgroup does not run here: {slurm.said() or error}")
        yield slurm
        slurm.run("scancel", "--state=running", "--state=pending", f"--nodelist={NODE}", check=False)
        with contextlib.suppress(AssertionError):  # Slurm removes the cgroups of jobs that end
            until(lambda: not slurm.run("squeue", "--noheader", check=False).stdout, 20, "no job is left")
    finally:
        slurm.stop()
        until(remove_cgroups, 10, f"the cgroups of {NODE} are removed")


def refuse_without_cgroups(slurm: Contained, folder: Path) -> None:
    """A job runs, and in a cgroup of its own."""
    told = folder / "told"
    job = slurm.run("sbatch", "--parsable", "--chdir=/", f"--output={told}", "--wrap=cat /proc/self/cgroup").stdout

    def ran() -> bool:
        if slurm.node_state(NODE).startswith(("DRAIN", "DOWN")):
            raise NotReadyError(f"the node gave up: {slurm.said()}")
        return told.exists() and not slurm.run("squeue", "--noheader").stdout

    try:
        until(ran, 20, "a first job has ended")
    except AssertionError as late:
        raise NotReadyError(str(late)) from late
    if f"job_{job.strip()}" not in told.read_text():
        raise NotReadyError(f"a job was in these cgroups: {told.read_text()}")


def remove_cgroups() -> bool:
    """Remove the node's cgroups, as empty as their processes left them; true where none is left."""
    left = [Path(at) for at, _, _ in os.walk(CGROUPS, topdown=False) if NODE in at]
    for path in left:
        with contextlib.suppress(OSError):
            path.rmdir()
    return not any(path.exists() for path in left)


@contextlib.contextmanager
def throwaway_user(home: Path) -> Iterator[pwd.struct_passwd]:
    # With no password ('*'), not a locked one ('!'), which sshd refuses.
    options = ["--system", "--user-group", "--no-create-home", f"--home-dir={home}", "--shell=/bin/sh", "--password=*"]
    subprocess.run([str(binary("useradd")), *options, NAME], check=True, capture_output=True, timeout=30)
    user = pwd.getpwnam(NAME)
    try:
        home.mkdir()
        shutil.chown(home, user.pw_uid, user.pw_gid)
        yield user
    finally:
        kill_until_gone(lambda: {pid for pid in all_pids() if owner(pid) == user.pw_uid})
        shutil.rmtree(f"/tmp/tracebed-{user.pw_uid}", ignore_errors=True)
        subprocess.run([str(binary("userdel")), NAME], check=True, capture_output=True, timeout=30)


def owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


@contextlib.contextmanager
def pam_service() -> Iterator[None]:
    path = Path("/etc/pam.d") / NAME
    path.write_text(PAM.format(module=module(), name=NAME, node=NODE))
    try:
        yield
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(short_folder())
        slurm = stack.enter_context(contained_slurm(root / "s"))
        user = stack.enter_context(throwaway_user(root / "home"))
        with identity(user.pw_uid, user.pw_gid):
            if not os.access(SUPERVISOR, os.R_OK):
                pytest.skip(f"the platform runs as another user here, who may not read {SUPERVISOR}")
        stack.enter_context(pam_service())
        login = stack.enter_context(Sshd(root / "login", environment=slurm.environment(), user=NAME))
        node = stack.enter_context(Sshd(root / "node", environment=slurm.environment(), user=NAME, pam_service=NAME))
        _, *way = node.ssh_config.read_text().splitlines()
        config = root / "ssh_config"
        config.write_text("\n".join([f"Host {NODE}", *way, login.ssh_config.read_text()]))
        yield Lab(slurm, user, config, root / "home", node)


@pytest.fixture
def bench(lab, request) -> Iterator[Bench]:
    """The platform as the user; nothing of it is left to the next test."""
    folder = lab.folder / request.node.name[-40:]
    (script := lab.folder / "workload.sh").write_text(WORKLOAD)
    ssh = {"host": "login", "user": NAME, "config": lab.ssh_config}
    described = {"scheduler": "slurm", "ssh": ssh, "inside_allocation": True, "poll_s": 0.5, "accounting": False}
    environments = {"default": ("/bin/sh", str(script))}
    work = str(folder / "work")
    site = Site(name="cluster", partition="gpu", environments=environments, root=folder, work=work, **described)
    with identity(lab.user.pw_uid, lab.user.pw_gid):
        folder.mkdir()
        yield Bench(folder, site)
    lab.admin("scancel", f"--user={NAME}")
    until(lambda: not lab.jobs(), 20, "its allocations are given back")


def running(bench: Bench, handle: Handle) -> SubmissionDirectory:
    """Wait until the workload works; whoever follows the job starts it in its allocation."""
    files = SubmissionDirectory(handle.directory)
    until(lambda: bench.status(handle) and b"working" in files.read_log(0), 20, f"{handle.key} works")
    return files


def processes(folder: Path) -> list[int]:
    """Every process that lives and has a folder in its environment, as jobs in it have."""
    return [pid for pid in all_pids() if os.fsencode(folder) in environment_of(pid) and not gone(pid)]


def cgroup(pid: int) -> str:
    """The path of the cgroup that a step of Slurm has put a process in; empty where it has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 2)[2] for line in lines if NODE in line), "none of Slurm's")


@pytest.mark.fault(
    "a node with the real pam_slurm_adopt, and no job there", "SiteUnavailable; says `inside_allocation` is the cure"
)
def test_the_real_module_refuses_who_has_no_job(bench, record_property):
    with pytest.raises(SiteUnavailable, match="inside_allocation = true") as refused:
        bench.site.ssh.reach(NODE).run(["true"])
    assert REFUSAL in str(refused.value)
    assert bench.site.ssh.reach().run(["true"]).code == 0  # the login node lets everyone in
    record_property("measured", f"{REFUSAL!r}, and the cure")


@pytest.mark.fault(
    "a job inside an allocation on a node with the real pam_slurm_adopt",
    "it is let in, adopted with all its processes, and sees the allocation's GPUs",
)
def test_a_job_is_adopted_by_its_allocation(lab, bench, record_property):
    words = ("--parsable", "--output=/dev/null", "--chdir=/", "--gres=gpu:2", "--wrap=sleep 600")
    others = lab.admin("sbatch", *words)
    try:
        until(lambda: lab.admin("squeue", "--noheader", "--states=running"), 20, "another user has 2 GPUs")
        with pytest.raises(SiteUnavailable, match=REFUSAL):
            bench.site.ssh.reach(NODE).run(["true"])
        needs = Needs(memory_gb=0.2, disk_gb=0.0, gpus=3)
        files = running(bench, bench.submit("adopted", needs=needs))
    finally:
        lab.admin("scancel", others)
    ours = until(lambda: len(found := processes(files.path)) >= 4 and found, 20, "all of it runs")
    step = f"job_{files.read_handle()['job']}/step_extern"
    found = {where for pid in ours if (where := cgroup(pid))}
    assert found and all(step in each for each in found), found
    assert b"CUDA_VISIBLE_DEVICES=2,3,4" in files.read_log(0) and files.launch().started()["gpus"] == "2,3,4"
    record_property("measured", f"{len(ours)} processes in {step} of its cgroup; CUDA_VISIBLE_DEVICES=2,3,4")


@pytest.mark.fault(
    "scancel of an allocation by somebody else, the real pam_slurm_adopt",
    "Slurm ends all that was adopted; the node refuses; CANCELLED",
)
def test_slurm_ends_what_it_has_adopted(lab, bench, record_property):
    handle = bench.submit("lost")
    files = running(bench, handle)
    ours = until(lambda: len(found := processes(files.path)) >= 4 and found, 20, "all of it runs")
    lab.admin("scancel", files.read_handle()["job"])
    until(lambda: all(map(gone, ours)), 20, "Slurm has ended its processes")  # nobody else: the platform does not ask
    status = bench.ended(handle)
    assert status.ending == Ending.CANCELLED and processes(files.path) == []
    assert "nothing of it goes on" in (files.path / "given_back").read_text()
    with pytest.raises(SiteUnavailable, match=REFUSAL):
        bench.site.ssh.reach(NODE).run(["true"])
    record_property("measured", f"{len(ours)} processes before, 0 after, ended by Slurm alone; {status.detail}")


@pytest.mark.fault(
    "two jobs inside two allocations on one node, the real pam_slurm_adopt",
    "each is adopted by its own allocation, and outlives the other",
)
def test_each_job_is_adopted_by_its_own_allocation(bench, record_property):
    jobs = [running(bench, bench.submit(name)) for name in ("first", "second")]
    _lie_in_their_own(jobs)
    bench.backend.cancel(jobs[0].handle())
    until(lambda: not processes(jobs[0].path), 20, "the first has ended")
    assert processes(jobs[1].path), "the second goes on"
    record_property("measured", "2 jobs, 2 allocations, each in its own; the first cancelled, the second goes on")


@pytest.mark.fault(
    "two allocations are granted on one node before either job is started there",
    "one is adopted by its own allocation; the other waits until that has ended, then is adopted by its own",
)
def test_a_job_whose_connection_another_allocation_adopts_waits(bench, record_property):
    handles = [bench.submit(name) for name in ("one", "other")]
    queue = bench.backend.slurm.queue
    jobs = [handle.reference.partition("@")[0] for handle in handles]
    until(lambda: {queue()[job].word for job in jobs} == {"RUNNING"}, 20, "both allocations stand")
    told = until(lambda: next(filter(None, map(_waits, bench.backend.poll(handles).values())), ""), 20, "one waits")
    first = until(lambda: _works(bench, handles), 20, "the other works")
    (second,) = (handle for handle in handles if handle != first)
    _lie_in_their_own([SubmissionDirectory(first.directory)])
    assert not processes(second.directory)
    bench.backend.cancel(first)
    _lie_in_their_own([running(bench, second)])
    assert not processes(first.directory)
    record_property("measured", re.sub(r"\d+", "N", told))


def _waits(status: Status) -> str:
    """Why a job has not been started yet, where the adoption of its connection is the reason."""
    return status.detail if "adopted by" in status.detail else ""


def _works(bench: Bench, handles: list[Handle]) -> Handle | None:
    """The first of several jobs that works; all of them are followed, as their runs do it."""
    bench.backend.poll(handles)
    working = (each for each in handles if b"working" in SubmissionDirectory(each.directory).read_log(0))
    return next(working, None)


def _lie_in_their_own(jobs: list[SubmissionDirectory]) -> None:
    for files in jobs:
        found = {where for pid in processes(files.path) if (where := cgroup(pid))}
        assert found and all(f"job_{files.read_handle()['job']}/step_extern" in each for each in found), found
