"""The test cluster itself: it is a real Slurm and a real sshd, can be broken, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.folders import short_folder
from cluster.processes import all_pids, environment_of, holds_file_under, until
from cluster.slurm import SlurmCluster
from cluster.sshd import Sshd

pytestmark = pytest.mark.xdist_group("slurm")


def submit(cluster: SlurmCluster, command: str, *options: str, user: str | None = None) -> str:
    words = ("--parsable", "--output=/dev/null", "--chdir=/", *options, f"--wrap={command}")
    return cluster.run("sbatch", *words, user=user).stdout.split(";")[0].strip()


def states(cluster: SlurmCluster, job: str, *options: str) -> list[list[str]]:
    listed = cluster.run(
        "sacct", "--noheader", "--parsable2", "--format=State,ExitCode,MaxRSS", *options, "--jobs", job
    )
    return [line.split("|") for line in listed.stdout.splitlines()]


def wait_for_state(cluster: SlurmCluster, job: str, *wanted: str, timeout_s: float = 40) -> None:
    def reached() -> bool:
        rows = states(cluster, job)
        return bool(rows) and rows[0][0].split()[0] in wanted

    until(reached, timeout_s, f"job {job} is {' or '.join(wanted)}")


def left_over(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder in their environment, arguments or open files."""
    found = []
    for pid in set(all_pids()) - {os.getpid()}:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(folder).encode() in words + environment_of(pid) or holds_file_under(pid, folder):
                found.append(f"{pid} {words.replace(bytes(1), b' ').decode()}")
    return found


@pytest.fixture
def over_ssh(sshd: Sshd) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["ssh", "-F", str(sshd.ssh_config), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    return run


def test_a_job_runs_and_accounting_has_its_end(cluster: SlurmCluster):
    job = submit(cluster, "srun sleep 2")
    wait_for_state(cluster, job, "COMPLETED")
    until(lambda: len(states(cluster, job)) == 3, 20, "job, batch and step rows are there")
    rows = states(cluster, job)
    assert [row[:2] for row in rows] == [["COMPLETED", "0:0"]] * 3
    assert any(row[2] for row in rows), f"no MaxRSS in {rows}"


def test_a_job_sees_the_gpus_that_it_asked_for(cluster: SlurmCluster):
    seen = cluster.run("srun", "--chdir=/", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES").stdout.strip()
    assert len(seen.split(",")) == 2


def test_another_user_may_submit(cluster: SlurmCluster):
    wait_for_state(cluster, submit(cluster, "true", user="nobody"), "COMPLETED")


def test_a_killed_node_fails_its_job_and_comes_back(cluster: SlurmCluster):
    job = submit(cluster, "sleep 300", "--nodelist=an52", "--no-requeue")
    wait_for_state(cluster, job, "RUNNING")
    until(cluster.job_processes, 20, "the job has processes")
    cluster.kill_node("an52")
    assert cluster.job_processes(), "the job's processes ended with the node's daemon"
    wait_for_state(cluster, job, "NODE_FAIL", timeout_s=60)
    assert cluster.node_state("an52").startswith("DOWN")
    cluster.reset()
    assert cluster.node_state("an52") == "IDLE"
    assert not cluster.job_processes()


def test_an_urgent_job_requeues_one_of_lower_priority(cluster: SlurmCluster):
    low = submit(cluster, "sleep 300", "--nodelist=an51", "--exclusive", "--requeue")
    wait_for_state(cluster, low, "RUNNING")
    urgent = submit(cluster, "true", "--partition=urgent", "--nodelist=an51", "--exclusive")
    wait_for_state(cluster, urgent, "COMPLETED")
    assert states(cluster, low, "--duplicates", "--allocations")[0][0] == "PREEMPTED"
    wait_for_state(cluster, low, "RUNNING")


def test_reset_mends_what_a_test_broke(cluster: SlurmCluster):
    job = submit(cluster, "sleep 300")
    wait_for_state(cluster, job, "RUNNING")
    cluster.run("scontrol", "update", "NodeName=an53", "State=DRAIN", "Reason=test")
    cluster.stop_controller()
    cluster.stop_slurmdbd()
    cluster.reset()
    assert [cluster.node_state(name) for name in cluster.nodes] == ["IDLE"] * 3
    wait_for_state(cluster, job, "CANCELLED")


def test_the_commands_may_have_other_names(cluster: SlurmCluster):
    folder = cluster.yh_commands()
    environment = os.environ | cluster.environment()
    submission = [str(folder / "yhbatch"), "--parsable", "--output=/dev/null", "--chdir=/", "--wrap=true"]
    done = subprocess.run(submission, env=environment, capture_output=True, text=True, timeout=30, check=True)
    wait_for_state(cluster, done.stdout.strip(), "COMPLETED")
    for name in ("yhqueue", "yhacct", "yhinfo"):
        subprocess.run([str(folder / name)], env=environment, capture_output=True, timeout=30, check=True)


def test_without_accounting_sacct_says_so_and_jobs_run(slurm_without_accounting: SlurmCluster):
    answer = slurm_without_accounting.run("sacct", check=False)
    assert answer.returncode != 0
    assert "accounting storage is disabled" in answer.stderr
    assert slurm_without_accounting.run("srun", "--chdir=/", "echo", "ran").stdout == "ran\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def test_stop_leaves_no_process_not_even_of_a_killed_node(folder: Path):
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    began = time.monotonic()
    with SlurmCluster(folder, command_prefix="yh") as own:
        print(f"started in {time.monotonic() - began:.1f} s")
        job = submit(own, "env -i setsid sleep 300 & sleep 300", "--nodelist=an51")
        wait_for_state(own, job, "RUNNING")
        until(lambda: len(own.job_processes()) >= 3, 20, "the job has started its processes")
        own.kill_node("an51")
        assert left_over(folder)
    assert left_over(folder) == []
    assert own.job_processes() == set()


def test_ssh_runs_a_command_and_sees_the_cluster(cluster: SlurmCluster, over_ssh):
    assert over_ssh("login", "true").returncode == 0
    assert over_ssh("an51", "sinfo --noheader --format=%D").stdout.split() == ["3"]


def test_a_cut_connection_leaves_the_listener_and_the_remote_command(sshd: Sshd, over_ssh, tmp_path: Path):
    pid_file = tmp_path / "pid"
    client = subprocess.Popen(
        [
            "ssh",
            "-F",
            str(sshd.ssh_config),
            "login",
            f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 300",
        ]
    )
    until(pid_file.exists, 20, "the remote command runs")
    assert sshd.connections()
    sshd.kill_connections()
    assert client.wait(10) == 255
    os.kill(int(pid_file.read_text()), 0)
    assert over_ssh("login", "true").returncode == 0
    assert int(pid_file.read_text()) in sshd.session_processes()
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_sshd_restarts_and_ends_what_its_sessions_left(folder: Path):
    if reason := Sshd.missing():
        pytest.skip(reason)
    with Sshd(folder) as own:
        own.restart()
        command = ["ssh", "-F", str(own.ssh_config), "login", "setsid sleep 300 </dev/null >/dev/null 2>&1 &"]
        subprocess.run(command, timeout=30, check=True)
        assert own.session_processes()
    assert left_over(folder) == []
