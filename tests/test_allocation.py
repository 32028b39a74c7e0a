"""Jobs through SSH inside an allocation: a real Slurm gives it, a real sshd stands for its nodes."""

import concurrent.futures
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.folders import short_folder
from cluster.processes import all_pids, environment_of, gone, kill_all
from cluster.sshd import Sshd
from fault_jobs import Bench, slurm_site, until
from hypothesis import given
from hypothesis import strategies as st
from test_gpu_slots import A100, Node

from resources.compute.allocation import gpu_indices
from resources.compute.interface import Ending, Handle, Needs, SiteUnavailable, State
from resources.compute.job_directory import SubmissionDirectory

pytestmark = pytest.mark.xdist_group("slurm")

REFUSAL = "Access denied by pam_slurm_adopt: you have no active jobs on this node"


class Ways:
    """The client configuration, in which the way to the nodes (not to the login node) can be broken and mended."""

    def __init__(self, config: Path, path: Path):
        self.path, self._good = path, config.read_text()
        self.mend()

    def mend(self) -> None:
        self.path.write_text(self._good)

    def break_(self, how: str) -> None:
        """Change how nodes are reached; connections that are open already are closed."""
        self.path.write_text(f"Host an51 an52 an53\n    {how}\n{self._good}")


@pytest.fixture
def ways(sshd, tmp_path) -> Ways:
    sshd.start()
    return Ways(sshd.ssh_config, tmp_path / "ssh_config")


@pytest.fixture(scope="module")
def refuses() -> Iterator[str]:
    """How nodes are reached that refuse whoever has no job there: an sshd that says so and accepts no key.

    A stand-in, so that this runs where there are no cgroups; `test_pam_slurm_adopt.py` has the real module.
    """
    if reason := Sshd.missing():
        pytest.skip(reason)
    with short_folder() as folder, Sshd(folder) as node:
        (folder / "banner").write_text(REFUSAL + "\n")
        (folder / "authorized_keys").write_text("")
        with (folder / "sshd_config").open("a") as stream:
            stream.write(f"Banner {folder}/banner\n")
        node.restart()
        yield f"Port {node.port}\n    UserKnownHostsFile {folder}/known_hosts"


@pytest.fixture
def make_bench(cluster, sshd, ways, monkeypatch, tmp_path):
    def make(**settings) -> Bench:
        ssh = {"host": "login", "user": sshd.user, "config": ways.path}
        work = str(tmp_path / "work")
        site = slurm_site(cluster, monkeypatch, **{"ssh": ssh, "inside_allocation": True, "work": work} | settings)
        return Bench(tmp_path, site)

    yield make
    kill_all(processes(tmp_path / "jobs"))


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


def cut_off(bench: Bench, ways: Ways, node: str, how: str) -> None:
    """Break the way to the nodes, also for commands that would use an open connection."""
    ways.break_(how)
    way = bench.site.ssh.reach(node)
    subprocess.run([*way.command()[:-1], "-O", "exit", node], capture_output=True, timeout=20, check=False)


def running(bench: Bench, handle: Handle) -> SubmissionDirectory:
    """Wait until the workload works; whoever follows the job starts it in its allocation."""
    files = SubmissionDirectory(handle.directory)
    until(lambda: bench.status(handle) and b"working" in files.read_log(0), 20, f"{handle.key} works")
    return files


def processes(folder: Path) -> list[int]:
    """Every process that lives and has a folder in its environment, as jobs in it have."""
    return [pid for pid in all_pids() if os.fsencode(folder) in environment_of(pid) and not gone(pid)]


def allocations(cluster, name: str = "", *states: str) -> list[str]:
    """Allocations of a job name in some states; default: all that the controller knows."""
    named = [f"--name={name}"] if name else []
    told = cluster.run("squeue", "--noheader", f"--states={','.join(states) or 'all'}", "--format=%i", *named).stdout
    return told.split()


def fill(cluster) -> str:
    """Take all nodes."""
    words = ("--parsable", "--output=/dev/null", "--chdir=/", "--nodes=3", "--exclusive", "--wrap=sleep 600")
    job = cluster.run("sbatch", *words).stdout.strip()
    until(lambda: allocations(cluster, "", "running") == [job], 20, "all nodes are taken")
    return job


# As `scontrol --details show job` of Slurm 22.05.8 writes it; a test below reads the first one from a real scontrol.
SHOWN = {
    "     Nodes=an51 CPU_IDs=0 Mem=205 GRES=gpu:v100:3(IDX:0-1,4)\n   MinCPUsNode=1": [0, 1, 4],
    "     Nodes=an51 CPU_IDs=0 Mem=205 GRES=gpu:v100:1(IDX:7)\n": [7],
    "     Nodes=an51 CPU_IDs=0-7 Mem=205 GRES=gpu:v100:8(IDX:0-7)\n": list(range(8)),
    "     Nodes=an51 CPU_IDs=0 Mem=205 GRES=gpu:2(IDX:2-3)\n": [2, 3],
    "     Nodes=an51 CPU_IDs=0 Mem=205 GRES=\n": [],
    "   TresPerNode=gres:gpu:2\n": [],
}


@pytest.mark.parametrize("shown", SHOWN)
def test_the_gpus_of_an_allocation_are_read_from_scontrol(shown):
    assert gpu_indices(shown) == SHOWN[shown]


@given(st.sets(st.integers(0, 15), min_size=1))
def test_any_set_of_gpus_is_read_back(indices):
    parts, rest = [], sorted(indices)
    while rest:
        last = rest[0]
        while last + 1 in indices:
            last += 1
        parts.append(f"{rest[0]}-{last}" if last > rest[0] else str(last))
        rest = [each for each in rest if each > last]
    assert gpu_indices(f"GRES=gpu:v100:{len(indices)}(IDX:{','.join(parts)})\n") == sorted(indices)


@pytest.mark.fault("an allocation of GPUs that are not neighbours", "the job sees exactly these; they are given back")
def test_the_job_sees_the_gpus_of_its_allocation(make_bench, cluster, tmp_path, record_property):
    bench = make_bench(options=["--nodelist=an51"])
    taken = []
    for _ in range(2):
        words = ("--parsable", "--output=/dev/null", "--chdir=/", "--nodelist=an51", "--gres=gpu:2", "--wrap=sleep 600")
        taken.append(cluster.run("sbatch", *words).stdout.strip())
        until(lambda: taken[-1] in allocations(cluster, "", "running"), 20, "it has its GPUs")
    cluster.run("scancel", taken[0])
    until(lambda: allocations(cluster, "", "running") == taken[1:], 20, "the first two GPUs are free again")
    # A stand-in for nvidia-smi and torch: the cluster's GPUs are character devices, nothing computes on them.
    (tmp_path / "gpu").mkdir()
    node = Node(tmp_path / "gpu")
    node.has(*(A100.replace("0,", f"{n},", 1).replace("GPU-5", f"GPU-{n}") for n in range(8)))
    node.has_torch(["sm_80"], gpus=[("NVIDIA A100-SXM4-80GB", 8, 0)] * 3)
    paths = {"PATH": f"{node.bin}:{os.environ['PATH']}", "PYTHONPATH": f"{node.modules}:{Path(__file__).parent}"}
    handle = bench.submit("gpus", "sleep", 2, needs=Needs(memory_gb=0.2, disk_gb=0.0, gpus=3), **paths)
    files = running(bench, handle)
    shown = cluster.run("scontrol", "--details", "show", "job", files.read_handle()["job"]).stdout
    given_ = re.search(r"GRES=(gpu\S+IDX\S+)", shown)[1]
    assert files.launch().started()["gpus"] == "0,1,4", shown
    assert bench.ended(handle).ending == Ending.SUCCEEDED, files.read_log(0)
    until(lambda: not allocations(cluster, handle.key, "running", "completing"), 20, "the allocation is given back")
    assert files.launch().started()["node"] == "an51"
    record_property("measured", f"{given_}: CUDA_VISIBLE_DEVICES={files.launch().started()['gpus']}")


@pytest.mark.fault("8 submissions of one job at once", "one allocation, one launch; given back at the end")
def test_eight_submissions_at_once_get_one_allocation(make_bench, cluster, record_property):
    benches = [make_bench() for _ in range(8)]
    spec = benches[0].spec("once", "exit", 3)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda bench: bench.backend.submit(spec), benches))
    assert len(set(handles)) == 1
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # several runs follow it
        ended = list(pool.map(lambda bench: bench.ended(handles[0]), benches[:3]))
    assert {each.ending for each in ended} == {Ending.USER_ERROR}
    assert len(allocations(cluster, handles[0].key)) == 1
    assert len(SubmissionDirectory(handles[0].directory).launches()) == 1
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "nothing is held")
    record_property("measured", "8 submissions, 1 allocation, 1 launch, 0 allocations afterwards")


def test_a_late_follower_is_told_the_same_ending_after_the_allocation_was_given_back(make_bench, cluster):
    first, late = make_bench(), make_bench()
    handle = first.submit("seen-late", "exit", 3)
    assert first.ended(handle).ending == Ending.USER_ERROR
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "it was given back: Slurm says CANCELLED")
    assert late.ended(handle).ending == Ending.USER_ERROR


@pytest.mark.fault("cancel a job inside an allocation", "its processes and its allocation are gone; again is no error")
def test_cancelling_ends_the_job_and_its_allocation(bench, cluster, ways, refuses, record_property):
    handle = bench.submit("cancelled", "child", 300)
    files = running(bench, handle)
    before = len(processes(handle.directory))
    bench.backend.cancel(handle)
    assert processes(handle.directory) == []
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "nothing is held")
    assert bench.ended(handle).ending == Ending.CANCELLED
    # Without a job on the node, pam_slurm_adopt lets nobody in (a stand-in says so): nothing of ours is there then.
    cut_off(bench, ways, files.read_handle()["node"], refuses)
    bench.backend.cancel(handle)
    record_property("measured", f"{before} processes before, 0 after; 0 allocations")


@pytest.mark.fault(
    "cancel while the node cannot be reached", "SiteUnavailable, the allocation ends, cancel is repeatable"
)
def test_cancel_without_the_node_is_unavailable_and_repeatable(bench, cluster, ways, record_property):
    handle = bench.submit("unreachable", "sleep", 300)
    files = running(bench, handle)
    cut_off(bench, ways, files.read_handle()["node"], "Port 1")
    with pytest.raises(SiteUnavailable):
        bench.backend.cancel(handle)
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "nothing is held")
    assert processes(handle.directory)
    ways.mend()
    bench.backend.cancel(handle)
    assert processes(handle.directory) == []
    record_property("measured", "allocation gone after the first cancel, processes after the second")


@pytest.mark.fault(
    "the allocation is taken away (scancel by somebody else)", "CANCELLED; no process goes on without one"
)
def test_a_job_that_lost_its_allocation_is_ended(bench, cluster, record_property):
    handle = bench.submit("lost", "child", 300)
    files = running(bench, handle)
    before = len(processes(handle.directory))
    cluster.run("scancel", files.read_handle()["job"])
    status = bench.ended(handle)
    assert status.ending == Ending.CANCELLED
    assert processes(handle.directory) == []
    assert "nothing of it goes on" in (handle.directory / "given_back").read_text()
    record_property("measured", f"{before} processes before, 0 after; {status.detail}")


@pytest.mark.fault("the allocation is taken away and the node cannot be reached", "CANCELLED; the job is fenced out")
def test_a_job_that_lost_its_allocation_on_a_dead_node_is_fenced_out(bench, cluster, ways, tmp_path, record_property):
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    handle = bench.submit("fenced", "train", 600, 0.3, str(kept))
    files = running(bench, handle)
    cut_off(bench, ways, files.read_handle()["node"], "Port 1")
    cluster.run("scancel", files.read_handle()["job"])
    assert bench.ended(handle).ending == Ending.CANCELLED
    until(lambda: b"FencedOut" in files.read_log(0), 20, "it was fenced out")
    until(lambda: not processes(handle.directory), 20, "it has ended")
    steps = len(list(kept.glob("step-*")))
    assert files.launch().exit_code() == 1 and files.launch().checkpoint_step() == steps
    assert "fenced out" in (handle.directory / "given_back").read_text()
    record_property("measured", f"no checkpoint after step {steps}; its last words: FencedOut")


@pytest.mark.fault("no node is free", "submit returns; PENDING like any job; found again; starts when there is room")
def test_an_allocation_waits_in_the_queue_without_blocking(make_bench, cluster, record_property):
    filler, bench = fill(cluster), make_bench()
    handle = bench.submit("queued", "exit", 0)
    assert allocations(cluster, "", "pending") == allocations(cluster, handle.key)
    status = until(lambda: s if (s := bench.status(handle)).state == State.PENDING else None, 20, "it is PENDING")
    assert status.ending is None
    assert make_bench().submit("queued", "exit", 0) == handle  # as another orchestrator
    assert len(allocations(cluster, handle.key)) == 1
    cluster.run("scancel", filler)
    assert bench.ended(handle).ending == Ending.SUCCEEDED
    assert len(SubmissionDirectory(handle.directory).launches()) == 1
    record_property("measured", f"PENDING ({status.detail}), then SUCCEEDED; 1 allocation for 2 submissions")


@pytest.mark.fault("a job is cancelled while its allocation waits in the queue", "no allocation is left behind")
def test_cancelling_a_queued_allocation_leaves_nothing_behind(make_bench, cluster, record_property):
    filler, bench = fill(cluster), make_bench()
    handle = bench.submit("queued", "sleep", 300)
    until(lambda: bench.status(handle).state == State.PENDING, 20, "it is PENDING")
    bench.backend.cancel(handle)
    assert allocations(cluster, handle.key, "pending", "running") == []
    assert bench.ended(handle).ending == Ending.CANCELLED
    cluster.run("scancel", filler)
    until(lambda: not allocations(cluster, "", "running", "pending", "completing"), 20, "nothing is held")
    assert SubmissionDirectory(handle.directory).launches() == []
    record_property("measured", "0 allocations, 0 launches")


@pytest.mark.fault("the node refuses (pam_slurm_adopt has not heard of the allocation yet)", "asked again; one launch")
def test_a_node_that_refuses_at_first_is_asked_again(bench, ways, cluster, refuses, record_property):
    cut_off(bench, ways, "an51", refuses)
    for node in ("an52", "an53"):
        cut_off(bench, ways, node, refuses)
    handle = bench.submit("refused", "exit", 0)
    said = until(lambda: s if "pam_slurm_adopt" in (s := bench.status(handle)).detail else None, 20, "it is refused")
    assert said.state == State.UNKNOWN and said.ending is None
    assert not SubmissionDirectory(handle.directory).launches()
    ways.mend()
    assert bench.ended(handle).ending == Ending.SUCCEEDED
    assert len(SubmissionDirectory(handle.directory).launches()) == 1
    record_property("measured", "UNKNOWN while it refused, then SUCCEEDED, 1 launch")


@pytest.mark.fault("scancel fails when the allocation is to be given back", "the job has not ended before it is")
def test_an_allocation_that_cannot_be_given_back_is_not_forgotten(make_bench, cluster, tmp_path, record_property):
    scancel = tmp_path / "scancel"
    down = tmp_path / "down"
    # A controller that is down takes half a minute to say so; this says it at once, and then calls the real one.
    scancel.write_text(f'#!/bin/sh\n[ -e "{down}" ] && {{ echo "Unable to contact slurm controller" >&2; exit 1; }}\n')
    with scancel.open("a") as stream:
        stream.write('exec scancel "$@"\n')
    scancel.chmod(0o755)
    down.touch()
    bench = make_bench(commands={"scancel": str(scancel)})
    handle = bench.submit("held", "exit", 0)
    status = until(lambda: s if "given back" in (s := bench.status(handle)).detail else None, 60, "the job has ended")
    assert status.ending is None and status.state == State.UNKNOWN and "SUCCEEDED" in status.detail
    assert len(allocations(cluster, handle.key, "running")) == 1
    down.unlink()
    assert bench.ended(handle).ending == Ending.SUCCEEDED
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "nothing is held")
    record_property("measured", "UNKNOWN until scancel worked, then SUCCEEDED with 0 allocations")


@pytest.mark.fault("the time limit of a job inside an allocation", "it is warned, saves, and ends as TIMEOUT")
def test_a_job_inside_an_allocation_is_warned_before_its_time_limit(make_bench, cluster, tmp_path, record_property):
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    bench = make_bench(warn_s=18)
    needs = Needs(memory_gb=0.2, disk_gb=0.0, time_limit_s=20)
    status = bench.ended(bench.submit("late", "train", 600, 0.3, str(kept), needs=needs))
    assert status.ending == Ending.TIMEOUT and "the checkpoint of step" in status.detail
    until(lambda: not allocations(cluster, "", "running", "completing"), 20, "nothing is held")
    record_property("measured", status.detail)
