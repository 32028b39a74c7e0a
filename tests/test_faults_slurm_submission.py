"""Faults around submission, on a real Slurm: whoever submits, dies or has a wrong clock, there is one job a key."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from fault_jobs import SMALL, Bench, slurm_site, until
from fault_slurm import (
    TRIVIAL,
    accounted,
    jobs_named,
    launches,
    only,
    output,
    reference,
    submitter,
    wrapper,
)

from resources.compute.interface import Ending, Needs, State
from resources.compute.job_directory import JobDirectory, SubmissionDirectory

pytestmark = pytest.mark.xdist_group("slurm")
SEED = 20_260
KILLS = 50
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def all_ended(bench: Bench, names: list[str], seconds: float = 120.0) -> set[Ending]:
    handles = [SubmissionDirectory(bench.jobs / name / "1").handle() for name in names]
    assert all(handles)
    until(lambda: all(each.ending for each in bench.backend.poll(handles).values()), seconds, "all jobs have ended")
    return {each.ending for each in bench.backend.poll(handles).values()}


@pytest.mark.fault("8 processes submit one job at once", "Slurm gets one job, and all know it")
def test_eight_processes_that_submit_one_key_start_one_job(cluster, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch, environments=TRIVIAL))
    said = output(submitter(bench, "together", "8", "eight")).split()
    assert len(said) == 8
    assert set(said) == {reference(bench, "eight")}
    assert all_ended(bench, ["eight"]) == {Ending.SUCCEEDED}
    assert jobs_named(cluster, "eight") == {"eight": 1}
    assert len(launches(bench, "eight")) == 1
    record_property("measured", "8 processes: 1 job, 1 launch")


def submitted_once_although_killed(cluster, bench: Bench, names: list[str]) -> str:
    """Says how far the submitters had come that were killed."""
    struck = int(output(submitter(bench, "killed", str(SEED), *names)))
    files = [SubmissionDirectory(bench.jobs / name / "1") for name in names]
    noted, meant = (
        sum(each.read_handle() is not None for each in files),
        sum(each.read_intent() is not None for each in files),
    )
    output(submitter(bench, "submit", *names))
    assert all_ended(bench, names) == {Ending.SUCCEEDED}
    assert jobs_named(cluster, *names) == dict.fromkeys(names, 1)
    assert [len(launches(bench, name)) for name in names] == [1] * len(names)
    assert struck > len(names) // 2
    assert meant > noted, "none was killed between its intent and its note of the job"
    return (
        f"{struck} of {len(names)} killed: {len(names) - meant} before the intent, {meant - noted} around sbatch, "
        f"{noted} after the job was noted; {len(names)} jobs and launches"
    )


@pytest.mark.fault(
    f"the submitting process is killed (SIGKILL) at {KILLS} random moments, and another submits again",
    "each key has one job and one launch",
)
def test_a_submitter_killed_at_any_moment_leaves_one_job(cluster, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch, environments=TRIVIAL))
    names = [f"struck-{number}" for number in range(KILLS)]
    record_property("measured", submitted_once_although_killed(cluster, bench, names))


@pytest.mark.fault(
    "the same with an sbatch that takes 0.6 s: killed before, during and after it reaches the controller",
    "each key has one job and one launch",
)
def test_a_submitter_killed_while_sbatch_is_under_way_leaves_one_job(cluster, tmp_path, monkeypatch, record_property):
    slow = wrapper(tmp_path / "slow", "sbatch", 'sleep 0.3\n"$real" "$@"\ncode=$?\nsleep 0.3\nexit $code')
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch, environments=TRIVIAL, commands={"sbatch": slow}))
    names = [f"struck-slowly-{number}" for number in range(15)]
    record_property("measured", submitted_once_although_killed(cluster, bench, names))


def moments(calls: Path, name: str) -> list[float]:
    return sorted(float(line.split()[1]) for line in calls.read_text().splitlines() if line.split()[0] == name)


@pytest.mark.fault(
    "200 jobs at once, 20 of which fail, polled by 4 processes",
    "each ends once, as it should; a cycle costs one squeue and at most one sacct",
)
def test_two_hundred_jobs_cost_one_question_a_cycle(cluster, tmp_path, monkeypatch, record_property):
    calls = tmp_path / "calls"
    counted = {
        name: wrapper(tmp_path / "counted", name, f'echo {name} $(date +%s.%N) >>{calls}\nexec "$real" "$@"')
        for name in ("squeue", "sacct")
    }
    every_tenth = wrapper(tmp_path / "payload", "python", "case $TRACEBED_JOB in *5.1) exit 3 ;; esac")
    settings = {"environments": {"default": every_tenth}, "commands": counted, "poll_s": 1}
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch, **settings))
    names = [f"many-{number}" for number in range(200)]
    only(cluster)  # so that all wait at once, and some cycles pass
    pollers = [submitter(bench, "poll", *names[part::4]) for part in range(4)]
    until(
        lambda: all(SubmissionDirectory(bench.jobs / name / "1").read_handle() for name in names),
        60,
        "all are submitted",
    )
    until(lambda: calls.exists() and len(moments(calls, "squeue")) > 3, 60, "squeue was asked")
    only(cluster, *cluster.nodes)
    with ThreadPoolExecutor(4) as pool:
        said = " ".join(pool.map(lambda poller: output(poller, 200), pollers))
    assert (said.count('"SUCCEEDED"'), said.count('"USER_ERROR"')) == (180, 20)
    assert jobs_named(cluster, *names) == dict.fromkeys(names, 1)
    assert {len(launches(bench, name)) for name in names} == {1}
    asked, accounts = moments(calls, "squeue"), moments(calls, "sacct")
    assert all(later - earlier >= bench.site.poll_s for earlier, later in pairwise(asked))
    cycles = zip(asked, [*asked[1:], float("inf")], strict=True)
    assert all(sum(begun <= each < over for each in accounts) <= 1 for begun, over in cycles)
    assert accounts
    record_property("measured", f"200 jobs and launches; {len(asked)} squeue and {len(accounts)} sacct by 4 processes")


@pytest.mark.fault(
    "the clock of the orchestrator is 5 minutes slow or fast against node, scheduler and file server; it dies "
    "between sbatch and its note of the job, and another follows",
    "one job, which succeeds",
)
@pytest.mark.parametrize("offset", ["-5m", "+5m"])
def test_an_orchestrator_with_a_wrong_clock_finds_its_job_again(
    cluster, tmp_path, monkeypatch, record_property, offset
):
    if not FAKETIME.exists():
        pytest.skip(f"no {FAKETIME}: Debian's package faketime is not installed")
    true_clock = wrapper(tmp_path / "true-clock", "sbatch", 'unset LD_PRELOAD\nexec "$real" "$@"')
    site = slurm_site(cluster, monkeypatch, commands={"sbatch": true_clock})
    bench, name = Bench(tmp_path, site), f"clock{offset}"
    wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "NO_FAKE_STAT": "1", "FAKE_UTIME": "1"}
    died = submitter(bench, "crash", name, behaviour=("sleep", 3), **wrong)
    died.communicate(timeout=60)
    assert died.returncode == -9
    assert SubmissionDirectory(bench.jobs / name / "1").read_handle() is None
    assert output(submitter(bench, "follow", name, behaviour=("sleep", 3), **wrong)).strip() == "SUCCEEDED"
    assert jobs_named(cluster, name) == {name: 1}
    assert len(launches(bench, name)) == 1
    # Only the exit file was needed so far; this ending needs what Slurm says.
    failed = output(submitter(bench, "follow", f"{name}-failed", behaviour=("exit", 3), **wrong), 60).strip()
    assert failed == "USER_ERROR"
    record_property("measured", f"{offset}: 1 job, 1 launch, SUCCEEDED; another one USER_ERROR")


@pytest.mark.fault(
    "the clock of the node jumps back 5 minutes, and Slurm starts the job again (scontrol requeue)",
    "the later launch counts, although its name and start look older",
)
def test_the_fence_and_no_clock_tells_which_launch_counts(cluster, tmp_path, monkeypatch, record_property):
    if not FAKETIME.exists():
        pytest.skip(f"no {FAKETIME}: Debian's package faketime is not installed")
    clock, checkpoints = tmp_path / "clock", tmp_path / "checkpoints"
    clock.write_text("+0\n")
    checkpoints.mkdir()
    exported = f"LD_PRELOAD={FAKETIME},FAKETIME_TIMESTAMP_FILE={clock},FAKETIME_NO_CACHE=1"
    faked = wrapper(tmp_path / "faked", "sbatch", f'exec "$real" --export=ALL,{exported} "$@"')
    site = slurm_site(cluster, monkeypatch, commands={"sbatch": faked}, options=("--requeue",))
    bench = Bench(tmp_path, site)
    handle = bench.submit("clock-back", "train", 12, 0.5, str(checkpoints))
    until((checkpoints / "step-3").exists, 60, "the first launch works")
    clock.write_text("-5m\n")
    cluster.run("scontrol", "requeue", handle.reference)
    assert bench.ended(handle).ending == Ending.SUCCEEDED
    older, newer = (int(name.partition("-")[0]) for name in launches(bench, "clock-back"))
    writers = [(checkpoints / f"step-{step}").read_text() for step in range(1, 13)]
    counted = SubmissionDirectory(handle.directory).launch().path.name
    assert counted.startswith(f"{older}-")
    assert newer - older > 200
    assert writers[0].startswith(f"{newer}-")
    assert writers[-1] == counted
    assert jobs_named(cluster, "clock-back") == {"clock-back": 1}
    record_property("measured", f"the second launch is named {newer - older} s earlier than the first; it counts")


@pytest.mark.fault(
    "a partition that does not exist, more memory or GPUs than any node has, more CPUs than any node has",
    "LAUNCH_ERROR with Slurm's words and what to mend; for the CPUs Slurm lets it wait, and the reason is shown",
)
def test_an_impossible_request_is_refused_with_what_to_mend(cluster, tmp_path, monkeypatch, record_property):
    asked = {
        "nowhere": ({"partition": "gpux"}, SMALL, "invalid partition specified: gpux"),
        "too-much": ({}, Needs(memory_gb=1000, disk_gb=0), "Memory specification can not be satisfied"),
        "too-many": ({}, Needs(gpus=99, disk_gb=0), "Requested node configuration is not available"),
    }
    for name, (settings, needs, words) in asked.items():
        bench = Bench(tmp_path / name, slurm_site(cluster, monkeypatch, **settings))
        status = bench.follow(name, "exit", 0, needs=needs)
        assert status.ending == Ending.LAUNCH_ERROR
        assert words in status.detail
        assert "sites.toml" in status.detail
        assert f"memory_gb={needs.memory_gb}" in status.detail
        assert launches(bench, name) == []
        assert JobDirectory(bench.jobs / name).submissions() == [1]
    bench = Bench(tmp_path / "cpus", slurm_site(cluster, monkeypatch))
    waits = bench.submit("cpus", "exit", 0, needs=Needs(cpus=99, memory_gb=0.2, disk_gb=0))
    until(lambda: bench.status(waits).detail == "PartitionConfig", 20, "the reason is shown")
    assert bench.status(waits).state == State.PENDING
    bench.backend.cancel(waits)
    assert bench.ended(waits).ending == Ending.CANCELLED
    record_property("measured", "LAUNCH_ERROR 3 times, 1 submission each; 99 CPUs: PENDING, PartitionConfig")


@pytest.mark.fault("the folder of the job is removed while it waits", "LAUNCH_ERROR that names the folder")
def test_a_job_whose_log_folder_is_gone_is_a_launch_error(cluster, tmp_path, monkeypatch, record_property):
    bench = Bench(tmp_path, slurm_site(cluster, monkeypatch))
    only(cluster)
    handle = bench.submit("removed", "exit", 0)
    shutil.rmtree(handle.directory)
    only(cluster, *cluster.nodes)
    status = bench.ended(handle)
    assert status.ending == Ending.LAUNCH_ERROR
    assert str(handle.directory) in status.detail
    until(lambda: accounted(cluster, handle.reference, "ExitCode") == "0:53", 20, "sacct has it: it lags behind")
    record_property("measured", "sacct 0:53; LAUNCH_ERROR")


@pytest.mark.fault("squeue or sacct is not there", "UNKNOWN that names the command; the job itself is not lost")
def test_without_squeue_or_sacct_nothing_is_called_ended(cluster, tmp_path, monkeypatch, record_property):
    for missing in ("squeue", "sacct"):
        site = slurm_site(cluster, monkeypatch, commands={missing: "/nowhere/scommand"}, poll_s=0.1)
        bench = Bench(tmp_path / missing, site)
        handle = bench.submit(f"no-{missing}", "sleep", 2, needs=SMALL)
        status = bench.status(handle)
        assert status.ending is None
        if missing == "squeue":
            assert status.state == State.UNKNOWN
            assert "/nowhere/scommand" in status.detail
        assert bench.ended(handle).ending == Ending.SUCCEEDED
    record_property("measured", "UNKNOWN, then SUCCEEDED by the exit file")
