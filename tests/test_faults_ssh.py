"""Faults of nodes reached through SSH: cut lines, dead sshd, reboots, cancelled trees, names that a shell would read.

The node is a real sshd on loopback; its aliases an51 and an52 stand for two nodes of one shared file system.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from cluster.processes import all_pids, environment_of, gone, kill_all
from fault_jobs import Bench, slurm_site, until
from test_gpu_slots import A100, Node

from resources.compute.interface import Ending, Needs, SiteUnavailable, State, SubmissionRefused
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.sites import Site

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture
def make_bench(sshd, tmp_path):
    """A bench on the node; what its jobs left running is ended with the test."""
    made: list[Bench] = []

    def make(folder: Path = tmp_path, **settings) -> Bench:
        ssh = {"host": "an51", "user": sshd.user, "config": sshd.ssh_config}
        work = str(tmp_path / "work")
        made.append(Bench(folder, Site(**{"name": "node", "ssh": ssh, "work": work, "poll_s": 0.3, **settings})))
        return made[-1]

    sshd.start()
    yield make
    sshd.start()
    for bench in made:
        kill_all(processes(bench.jobs))


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


def processes(folder: Path) -> list[int]:
    """Every process that lives and has a folder in its environment, as jobs in it have."""
    return [pid for pid in all_pids() if os.fsencode(folder) in environment_of(pid) and not gone(pid)]


def workloads(folder: Path) -> list[int]:
    """Ids of the workloads among them: a launch's Python, not the shell that started it."""
    return [
        pid for pid in processes(folder) if b"\0TRACEBED_LAUNCH=" in environment_of(pid) and b"fault_probe" in line(pid)
    ]


def line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.fault(
    "SSH connection killed (SIGKILL) in mid-job, three times", "the job goes on; log complete; one launch"
)
def test_a_killed_connection_costs_the_job_nothing(bench, sshd, tmp_path, record_property):
    steps = 25
    (tmp_path / "checkpoints").mkdir()
    handle = bench.submit("cut", "train", steps, 0.15, str(tmp_path / "checkpoints"))
    files = bench.running(handle)
    read, states, kills = b"", set(), 0
    while (status := bench.status(handle)).ending is None:
        states.add(status.state)
        read += bench.backend.logs(handle, len(read))
        if kills < 3 and f"step {5 * (kills + 1)}\n".encode() in read:
            sshd.kill_connections()
            kills += 1
    read += bench.backend.logs(handle, len(read))
    assert status.ending == Ending.SUCCEEDED and kills == 3
    assert read == files.log.read_bytes()
    assert read.decode().splitlines()[-steps:] == [f"step {n}" for n in range(1, steps + 1)]
    assert len(files.launches()) == 1
    assert states <= {State.RUNNING, State.UNKNOWN}
    record_property("measured", f"{kills} cuts, {len(read)} of {files.log.stat().st_size} log bytes, 1 launch")


@pytest.mark.fault("SSH connection killed while a job is being started, then started again", "one process for each job")
def test_a_start_whose_connection_is_killed_is_repeated_and_starts_one_process(bench, sshd, record_property):
    bench.backend.poll([bench.submit("first", "exit", 0)])  # the supervisor is there, the connection open
    jobs, unavailable, refused = 6, 0, []
    for number in range(jobs):
        name = f"start-{number}"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            started = pool.submit(bench.submit, name, "sleep", 60)
            # From "not asked yet" to "about to answer": the moment of the cut moves through the start.
            until(started.running, 5, "the start began")
            with contextlib.suppress(concurrent.futures.TimeoutError):
                started.result(timeout=0.02 * number)
            sshd.kill_connections()
            try:
                started.result(60)
            except SiteUnavailable:
                unavailable += 1
            except SubmissionRefused as error:
                refused.append(str(error))
        files = bench.running(bench.submit(name, "sleep", 60))
        assert len(files.launches()) == 1
    assert not refused, "an answer that got lost is not a refusal"
    assert len(workloads(bench.jobs)) == jobs
    record_property("measured", f"{jobs} starts, {unavailable} cut short, {len(workloads(bench.jobs))} processes")


class Silent:
    """A supervisor whose answer got lost: exit status 0 and no output, as a colleague saw after a killed connection."""

    def __init__(self, real):
        self._real = real

    def run(self, argv, **options):
        done = self._real.run(argv, **options)
        return type(done)(0, "", "") if argv[0] == "start" else done


@pytest.mark.fault("the answer of a start is lost although ssh reports success", "not a refusal; repeated: one process")
def test_a_start_without_an_answer_is_repeated(bench, monkeypatch, record_property):
    from resources.compute import processes as module

    real = module.supervisor
    # Injected: whether ssh exits 0 or 255 when its connection dies at that moment cannot be chosen.
    monkeypatch.setattr(module, "supervisor", lambda *where: Silent(real(*where)))
    with pytest.raises(SiteUnavailable, match="asking again is safe"):
        bench.submit("lost", "sleep", 60)
    monkeypatch.setattr(module, "supervisor", real)
    files = bench.running(bench.submit("lost", "sleep", 60))
    assert len(files.launches()) == len(workloads(bench.jobs)) == 1
    record_property("measured", "1 process, 1 launch")


@pytest.mark.fault(
    "sshd stopped during the job, started again later", "UNKNOWN meanwhile, never an end; then SUCCEEDED"
)
def test_a_stopped_sshd_is_no_end(bench, sshd, tmp_path, record_property):
    go = tmp_path / "checkpoints"
    go.mkdir()
    handle = bench.submit("down", "train", 12, 0.25, str(go))
    files = bench.running(handle)
    sshd.stop()
    states = [bench.status(handle) for _ in range(3)]
    unknown = until(lambda: s if (s := bench.status(handle)).state == State.UNKNOWN else None, 10, "it is UNKNOWN")
    assert all(each.ending is None for each in states)
    assert "cannot be reached" in unknown.detail
    with pytest.raises(SiteUnavailable):
        bench.submit("later", "exit", 0)
    sshd.start()
    status = bench.ended(handle)
    assert status.ending == Ending.SUCCEEDED
    assert bench.ended(bench.submit("later", "exit", 0)).ending == Ending.SUCCEEDED
    assert len(files.launches()) == 1
    record_property("measured", f"UNKNOWN while it was down ({unknown.detail[:60]}...), then {status.ending}, 1 launch")


@pytest.mark.fault("10 submissions of one job at once", "one process, one launch, the same handle")
def test_ten_submissions_at_once_start_one_process(make_bench, record_property):
    benches = [make_bench() for _ in range(10)]
    spec = benches[0].spec("once", "sleep", 60)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        handles = list(pool.map(lambda bench: bench.backend.submit(spec), benches))
    files = benches[0].running(handles[0])
    assert len(set(handles)) == 1 and len(files.launches()) == 1
    assert len(workloads(benches[0].jobs)) == 1
    record_property("measured", f"10 submissions, {len(workloads(benches[0].jobs))} process")


@pytest.mark.fault("the node was rebooted", "NODE_FAIL; submitted again on another node; goes on from its checkpoint")
def test_a_rebooted_node_is_left_out_and_the_job_goes_on_elsewhere(make_bench, tmp_path, record_property):
    bench, steps, kept = make_bench(nodes=["an52"]), 12, tmp_path / "checkpoints"
    kept.mkdir()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        followed = pool.submit(bench.follow, "reboot", "train", steps, 0.2, str(kept))
        first = SubmissionDirectory(bench.jobs / "reboot" / "1")
        until((kept / "step-4").exists, 60, "four steps are saved")
        until(first.read_handle, 20, "it has a handle")
        kill_all(processes(bench.jobs))
        # A machine cannot be rebooted in a test. What a reboot leaves behind is this: no process, and a record with
        # the boot id of before.
        record = first.path / "process"
        record.write_text(re.sub(r"[0-9a-f-]{36}", "00000000-0000-4000-8000-000000000000", record.read_text()))
        status = followed.result(120)
    second = SubmissionDirectory(bench.jobs / "reboot" / "2")
    assert first.read_ended()["ending"] == Ending.NODE_FAIL
    assert status.ending == Ending.SUCCEEDED
    nodes = [files.launches()[0].started()["node"] for files in (first, second)]
    assert sorted(nodes) == ["an51", "an52"]
    begun = int(re.search(rb"begins after step (\d+)", second.read_log(0))[1])
    assert begun >= 4 and len(list(kept.glob("step-*"))) == steps
    assert any(f"node {nodes[0]} is left out" in said for said in bench.said)
    record_property("measured", f"{nodes[0]} lost after step {begun}, {nodes[1]} did steps {begun + 1}-{steps}")


@pytest.mark.fault(
    "cancel a job that has a child with a session of its own", "all of it is gone, nothing else is touched"
)
def test_cancelling_ends_the_tree_and_nothing_else(bench, sshd, record_property):
    victim, sibling = bench.submit("victim", "child", 300), bench.submit("victim-2", "child", 300)
    stranger = subprocess.Popen(["sleep", "300"], env={**os.environ, "TRACEBED_JOB": "victim.10"})
    try:
        for handle in (victim, sibling):
            files = bench.running(handle)
            until(lambda files=files: b"child " in files.read_log(0), 10, "the child runs")
        before = processes(victim.directory)
        child = int(re.search(rb"child (\d+)", bench.backend.logs(victim, 0))[1])
        assert child in before
        spared = processes(sibling.directory)
        sshd.stop()
        for _ in range(2):
            with pytest.raises(SiteUnavailable):
                bench.backend.cancel(victim)
        assert sorted(processes(victim.directory)) == sorted(before)
        sshd.start()
        bench.backend.cancel(victim)
        assert processes(victim.directory) == []
        bench.backend.cancel(victim)
        assert bench.ended(victim).ending == Ending.CANCELLED
        assert set(spared) <= {*processes(sibling.directory)} | {pid for pid in spared if gone(pid)}
        assert len(workloads(sibling.directory)) == 1 and not gone(stranger.pid)
        until(lambda: bench.status(sibling).state == State.RUNNING, 10, "the sibling is known to run")
        record_property("measured", f"{len(before)} processes before, 0 after; sibling and stranger live")
    finally:
        stranger.kill()
        stranger.wait()


TRICKY = {
    "ECHO_QUOTES": "a'b\"c",
    "ECHO_SHELL": "$HOME `id` $(id) ; * & | > <",
    "ECHO_LINES": "one\ntwo\n\n",
    "ECHO_UNICODE": "ünïcode \u2028 🙂",
    "ECHO_SPACES": "  two  ",
    "ECHO_DASHES": "--help",
    "ECHO_EMPTY": "",
    "ECHO_BACKSLASH": "\\n \\",
    "ECHO_PERCENT": "%s %j",
}
HOME = "a home 'with' \"quotes\", $HOME `id` ; * & ünïcode \u2028 -n"


@pytest.fixture(params=["here", "ssh", "slurm", "slurm through ssh", "inside an allocation"])
def anywhere(request, make_bench, tmp_path):
    """A bench at each kind of site, whose home has a name that a shell would read."""
    if request.param == "here":
        return make_bench(tmp_path / HOME, ssh=None, work=None)
    if request.param == "ssh":
        return make_bench(tmp_path / HOME, work=str(tmp_path / HOME / "work"))
    cluster, monkeypatch = request.getfixturevalue("cluster"), request.getfixturevalue("monkeypatch")
    sshd = request.getfixturevalue("sshd")
    over = {"ssh": {"host": "login", "user": sshd.user, "config": sshd.ssh_config}}
    inside = {"inside_allocation": True, "work": str(tmp_path / "work")}
    settings = {"slurm": {}, "slurm through ssh": over, "inside an allocation": over | inside}[request.param]
    return Bench(tmp_path / HOME, slurm_site(cluster, monkeypatch, **settings))


@pytest.mark.fault(
    "quotes, $, backticks, newlines, Unicode, spaces, ;, *, dashes in values and in the home's path", "exact"
)
def test_values_and_home_may_have_any_characters(anywhere, request, record_property):
    name = "key with 'quotes', $HOME ; * ünïcode -n"
    handle = anywhere.submit(name, "echo", **TRICKY)
    status = anywhere.ended(handle)
    files = SubmissionDirectory(handle.directory)
    assert status.ending == Ending.SUCCEEDED, (status, files.read_log(0))
    (told,) = [each for each in files.read_log(0).decode().split("\n") if each.startswith("{")]
    assert json.loads(told) == TRICKY
    assert len(files.launches()) == 1
    kind, path = request.node.callspec.params["anywhere"], str(handle.directory)
    record_property("measured", f"{kind}: {len(TRICKY)} of {len(TRICKY)} values, path of {len(path)} characters")


@pytest.mark.parametrize("ssh", [False, True])
def test_a_newline_in_the_home_or_key_is_refused_by_name(make_bench, tmp_path, ssh):
    bench = make_bench(tmp_path / "a\nb", **({} if ssh else {"ssh": None, "work": None}))
    with pytest.raises(SubmissionRefused, match="expected no newline"):
        bench.submit("job", "exit", 0)
    with pytest.raises(SubmissionRefused, match="job's key"):
        make_bench(tmp_path, **({} if ssh else {"ssh": None, "work": None})).submit("a\nTRACEBED", "exit", 0)


@pytest.mark.fault(
    "two jobs want the node's one GPU; the first is killed (kill -9)", "one after the other; the slot is free"
)
def test_gpu_slots_serialise_jobs_on_a_node(bench, tmp_path, record_property):
    # A stand-in: this machine has no GPU. It prints what nvidia-smi printed on a node with one A100.
    (tmp_path / "gpu").mkdir()
    node = Node(tmp_path / "gpu")
    node.has(A100)
    node.has_torch(["sm_80"], gpus=[("NVIDIA A100-SXM4-80GB", 8, 0)])
    paths = {
        "PATH": f"{node.bin}:{os.environ['PATH']}",
        "TRACEBED_GPU_LOCKS": str(node.locks),
        "PYTHONPATH": f"{node.modules}:{Path(__file__).parent}",
    }
    needs = Needs(cpus=1, memory_gb=0.2, disk_gb=0.0, gpus=1)
    spec = bench.spec("holder", "sleep", 300, needs=needs, **paths)
    holder = bench.backend.submit(spec)
    bench.running(holder)
    waiter = bench.backend.submit(bench.spec("waiter", "exit", 0, needs=needs, **paths))
    log = SubmissionDirectory(waiter.directory)
    until(lambda: b"waiting for 1 of 1 GPU" in log.read_log(0), 30, "the second job waits")
    assert b"of job holder.1" in log.read_log(0) and b"working" not in log.read_log(0)
    (workload,) = workloads(holder.directory)
    os.kill(workload, signal.SIGKILL)
    assert bench.ended(waiter).ending == Ending.SUCCEEDED
    assert bench.ended(holder).ending == Ending.USER_ERROR
    record_property("measured", "second job waited for `holder.1`, ran after its kill -9")


@pytest.mark.fault("the job's process killed (SIGKILL) on the node", "never SUCCEEDED: NO_EXIT_FILE")
def test_a_job_killed_on_the_node_is_not_a_success(bench, record_property):
    handle = bench.submit("killed", "sleep", 300)
    bench.running(handle)
    kill_all(processes(handle.directory))
    status = bench.ended(handle)
    assert status.ending == Ending.NO_EXIT_FILE
    record_property("measured", f"{status.ending}: {status.detail}")
