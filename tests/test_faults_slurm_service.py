"""A scheduler that does not answer, keeps no account or has other names: nothing is lost, nothing is run twice."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fault_jobs import Bench, slurm_site, until
from fault_slurm import jobs_named, launches, only, reference, submitter, wrapper

from resources.compute import patience
from resources.compute.interface import Ending, Needs, State
from resources.compute.job_directory import JobDirectory, SubmissionDirectory

pytestmark = pytest.mark.xdist_group("slurm")
DOWN_S = 60


def kill_launch_sh(files: SubmissionDirectory) -> None:
    """SIGKILL of the shell that would write the exit file; its name holds its process id."""
    launch = files.launch()
    assert launch is not None
    os.kill(int(launch.path.name.rpartition("-")[2]), signal.SIGKILL)


@pytest.mark.fault(
    f"slurmctld is down for {DOWN_S} s while one job runs and another is submitted",
    "states are UNKNOWN, nothing ends; afterwards both succeed, one Slurm job each",
)
def test_a_controller_that_is_down_ends_nothing_and_doubles_nothing(cluster, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch))
    running = bench.submit("through-it", "sleep", DOWN_S + 10)
    bench.running(running)
    cluster.stop_controller()
    stopped = time.monotonic()
    follower = threading.Thread(target=lambda: ended.append(bench.follow("meanwhile", "exit", 0)))
    ended: list = []
    follower.start()
    seen = []
    try:
        until(lambda: bench.status(running).detail.startswith(bench.site.commands.squeue), 30, "squeue was asked")
        while time.monotonic() < stopped + DOWN_S:
            seen.append(bench.status(running))
            time.sleep(0.2)
    finally:
        cluster.start_controller()
    assert {status.state for status in seen} == {State.UNKNOWN}
    assert {status.ending for status in seen} == {None}
    assert any("not submitted yet" in line for line in bench.said)
    assert bench.ended(running).ending == Ending.SUCCEEDED
    follower.join(120)
    assert [status.ending for status in ended] == [Ending.SUCCEEDED]
    assert jobs_named(cluster, "through-it", "meanwhile") == {"through-it": 1, "meanwhile": 1}
    assert len(launches(bench, "meanwhile")) == len(launches(bench, "through-it")) == 1
    record_property("measured", f"{len(seen)} polls, all UNKNOWN; 2 jobs, 2 launches, both SUCCEEDED")


@pytest.mark.fault("slurmdbd is down", "submission and endings go on by exit file and squeue; nothing is lost")
def test_without_slurmdbd_jobs_are_submitted_and_end(cluster, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch))
    cluster.stop_slurmdbd()
    try:
        good, bad, killed = (
            bench.submit(name, *behaviour)
            for name, behaviour in {
                "dbd-good": ("exit", 0),
                "dbd-bad": ("exit", 3),
                "dbd-killed": ("sleep", 60),
            }.items()
        )
        endings = [bench.ended(good, 30), bench.ended(bad, 30)]
        kill_launch_sh(bench.running(killed))
        endings.append(bench.ended(killed, 60))
    finally:
        cluster.start_slurmdbd()
    assert [status.ending for status in endings] == [Ending.SUCCEEDED, Ending.USER_ERROR, Ending.NO_EXIT_FILE]
    assert "exit code 3" in endings[1].detail
    record_property("measured", "SUCCEEDED, USER_ERROR, NO_EXIT_FILE as with it")


@pytest.mark.fault(
    "slurmdbd is down and squeue does not know the job", "UNKNOWN, never lost; its ending is told when slurmdbd is back"
)
def test_a_job_that_only_the_accounting_knows_waits_for_it(cluster, tmp_path, monkeypatch, record_property):
    forgetful = wrapper(tmp_path / "forgetful", "squeue", "exit 0")
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch, commands={"squeue": forgetful}, poll_s=0.1))
    handle = bench.submit("dbd-only", "exit", 3)
    files = SubmissionDirectory(handle.directory)
    cluster.stop_slurmdbd()
    try:
        until(lambda: (launch := files.launch()) and launch.exit_code() is not None, 30, "it has ended")
        seen = [bench.status(handle)]
        for _ in range(10):
            time.sleep(0.1)
            seen.append(bench.status(handle))
    finally:
        cluster.start_slurmdbd()
    assert {(status.state, status.ending) for status in seen} == {(State.UNKNOWN, None)}
    assert bench.ended(handle).ending == Ending.USER_ERROR
    record_property("measured", f"{len(seen)} polls UNKNOWN, then USER_ERROR")


@pytest.fixture
def unaccounted(slurm_without_accounting):
    slurm_without_accounting.reset()
    return slurm_without_accounting


@pytest.mark.fault(
    "a site without any accounting: success, error, cancelled while pending, launch.sh killed (SIGKILL)",
    "each ends as what it is",
)
def test_without_accounting_every_job_ends_as_what_it_is(unaccounted, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(unaccounted, monkeypatch, accounting=False))
    good, bad = bench.submit("good", "exit", 0), bench.submit("bad", "exit", 3)
    killed = bench.submit("killed", "sleep", 60)
    kill_launch_sh(bench.running(killed))
    endings = {handle.key: bench.ended(handle, 60) for handle in (good, bad, killed)}
    only(unaccounted)
    pending = bench.submit("pending", "exit", 0)
    until(lambda: bench.status(pending).state == State.PENDING, 30, "it waits")
    bench.backend.cancel(pending)
    endings["pending.1"] = bench.ended(pending, 60)
    only(unaccounted, *unaccounted.nodes)
    assert {key: status.ending for key, status in endings.items()} == {
        "good.1": Ending.SUCCEEDED,
        "bad.1": Ending.USER_ERROR,
        "killed.1": Ending.NO_EXIT_FILE,
        "pending.1": Ending.CANCELLED,
    }
    assert launches(bench, "pending") == []
    assert bench.backend.usage([good]) == {}
    record_property("measured", ", ".join(f"{key.removesuffix('.1')} {each.ending}" for key, each in endings.items()))


@pytest.mark.fault(
    "no accounting, and squeue has forgotten the job (MinJobAge)",
    "while its heart beats it runs; it ends as NO_EXIT_FILE when that has stopped",
)
def test_a_job_that_nobody_knows_lives_as_long_as_its_heart_beats(unaccounted, tmp_path, monkeypatch, record_property):
    monkeypatch.setattr(patience, "_QUIET_S", 7.0)  # launch.sh beats every 5 s; 60 s in earnest
    forgetful = wrapper(tmp_path / "forgetful", "squeue", "exit 0")
    site = slurm_site(unaccounted, monkeypatch, accounting=False, commands={"squeue": forgetful}, poll_s=0.1)
    bench = Bench(tmp_path, site)
    handle = bench.submit("forgotten", "sleep", 60)
    files = bench.running(handle)
    began = time.monotonic()
    while time.monotonic() < began + 9:
        assert bench.status(handle).ending is None
        time.sleep(0.2)
    kill_launch_sh(files)
    assert bench.ended(handle, 60).ending == Ending.NO_EXIT_FILE
    record_property("measured", "no ending in 9 s of heartbeats, NO_EXIT_FILE after the last one")


@pytest.mark.fault(
    "no accounting; the submitter dies before it notes the job, which ends and is forgotten by squeue",
    "the next submitter finds it by what its launch left: one Slurm job",
)
def test_an_ended_job_that_nobody_knows_is_not_submitted_again(unaccounted, tmp_path, monkeypatch, record_property):
    forgetful = wrapper(tmp_path / "forgetful", "squeue", "exit 0")
    site = slurm_site(unaccounted, monkeypatch, accounting=False, commands={"squeue": forgetful}, poll_s=0.1)
    bench = Bench(tmp_path, site)
    submitter(bench, "crash", "orphan", behaviour=("exit", 3)).communicate(timeout=60)
    files = SubmissionDirectory(bench.jobs / "orphan" / "1")
    assert files.read_handle() is None
    until(lambda: (launch := files.launch()) and launch.exit_code() is not None, 30, "it has ended")
    assert bench.ended(bench.submit("orphan", "exit", 3)).ending == Ending.USER_ERROR
    assert jobs_named(unaccounted, "orphan") == {"orphan": 1}
    assert len(launches(bench, "orphan")) == 1
    record_property("measured", "1 job, 1 launch, USER_ERROR")


@pytest.mark.fault(
    "a site whose commands are called yhbatch, yhqueue, ...: Slurm gives no warning there",
    "a job succeeds; launch.sh itself warns before the time limit, and the training goes on from its checkpoint",
)
def test_a_site_with_other_command_names_warns_and_resumes(cluster, tmp_path, monkeypatch, record_property):
    site = slurm_site(cluster, monkeypatch, commands="yh", warn_s=4)
    monkeypatch.setenv("PATH", f"{cluster.yh_commands()}{os.pathsep}{os.environ['PATH']}")
    bench = Bench(tmp_path, site)
    assert bench.ended(bench.submit("yh-good", "exit", 0)).ending == Ending.SUCCEEDED
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    needs = Needs(memory_gb=0.2, disk_gb=0, time_limit_s=8)
    assert bench.follow("yh-long", "train", 14, 0.5, str(checkpoints), needs=needs).ending == Ending.SUCCEEDED
    job = JobDirectory(bench.jobs / "yh-long")
    first = job.submission(1)
    assert first.read_ended()["ending"] == Ending.TIMEOUT
    assert first.launch().warned
    assert first.launch().exit_code() == 1  # it saved and ended by itself, before it was killed
    assert f"begins after step {first.launch().checkpoint_step()}" in job.submission(2).read_log(0).decode()
    assert sorted(map(_step, checkpoints.iterdir())) == list(range(1, 15))
    assert jobs_named(cluster, "yh-long") == jobs_named(cluster, "yh-long", number=2) == {"yh-long": 1}
    assert reference(bench, "yh-long", 2) != reference(bench, "yh-long", 1)
    record_property("measured", f"warned, TIMEOUT at step {first.launch().checkpoint_step()} of 14, then SUCCEEDED")


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
