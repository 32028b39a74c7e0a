"""Jobs on this host: what they report comes back, and how they end is told apart."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from home import Home
from resources.compute.compute import Compute
from resources.compute.interface import Ending, Handle, JobSpec, Needs
from resources.compute.job_directory import Launch, SubmissionDirectory, open_jobs
from resources.compute.process import this_process
from resources.compute.processes import ProcessBackend
from resources.compute.sites import load_sites

TESTS = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def probe_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


def run_probe(home: Home, behaviour: str, site: str = "", **params):
    results = []

    @dg.asset(check_specs=[dg.AssetCheckSpec("looks_right", asset="probe")])
    def probe(context: dg.AssetExecutionContext, compute: Compute):
        run = compute.run(context, "workload_probe", inputs={}, params={"behaviour": behaviour, **params})
        result = yield from run
        results.append(result)
        yield dg.MaterializeResult(metadata=result.metadata, check_results=list(result.checks))

    with dg.DagsterInstance.ephemeral(tempdir=str(home.root)) as instance:
        outcome = dg.materialize(
            [probe],
            resources={"compute": Compute(home=str(home.root), site=site)},
            instance=instance,
            raise_on_error=False,
        )
        logs = [event.message for event in instance.all_logs(outcome.run_id)]
    return outcome, results, logs


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "a home with ünïcode, 'quotes' and $dollars").ensure()


def test_result_metadata_checks_and_progress_come_back(home):
    text = "quotes ' \" $HOME `id` \n newline ünïcode"
    outcome, (result,), logs = run_probe(home, "work", text=text)
    assert outcome.success
    assert result.rows.frame["note"].to_list() == [text]
    assert result.metadata["answer"].value == 42
    assert [check.check_name for check in result.checks] == ["looks_right"]
    assert any("50 %  half way" in line for line in logs)
    submission = SubmissionDirectory(result.directory.parents[1])
    assert "probe prints 'quotes' $HOME" in submission.log.read_text()
    assert (submission.path / "environment").stat().st_mode & 0o777 == 0o600
    assert Launch(result.directory).exit_code() == 0
    assert submission.read_ended()["ending"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("behaviour", "said", "ending"),
    [
        ("raise", "found nothing, expected something", "USER_ERROR"),
        ("die", "exit code 137", "USER_ERROR"),
        ("silent", "0 materialisations were reported", "USER_ERROR"),
        ("tamper", "is not what the job reported", "USER_ERROR"),
        ("fail late", "exit code 3", "USER_ERROR"),
    ],
)
def test_success_is_exit_code_0_and_a_reported_result(home, behaviour, said, ending):
    outcome, results, _ = run_probe(home, behaviour)
    assert not outcome.success and not results
    failure = next(event for event in outcome.all_events if event.is_step_failure)
    data = failure.step_failure_data.user_failure_data
    assert said in data.description
    assert data.metadata["ending"].value == ending
    assert "probe prints" in data.metadata["end_of_log"].value


def spec(job: Path) -> JobSpec:
    return JobSpec(f"{job.name}.1", job / "1", "timeit", environment={"TRICKY": "a'b\"c $HOME\nd"})


def local(tmp_path: Path) -> ProcessBackend:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return ProcessBackend(load_sites().site("local"), state)


def wait(backend: ProcessBackend, handle, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = backend.poll([handle])[handle.key]
        if status.ending is not None:
            return status
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def test_submitting_a_key_twice_or_from_eight_threads_starts_it_once(tmp_path):
    backend, handles, job = local(tmp_path), [], tmp_path / "job"
    threads = [threading.Thread(target=lambda: handles.append(backend.submit(spec(job)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 8 and len(set(handles)) == 1
    assert backend.submit(spec(job)) == handles[0]
    assert wait(backend, handles[0]).ending == Ending.SUCCEEDED
    assert len(SubmissionDirectory(job / "1").launches()) == 1


@pytest.fixture
def sleeping(tmp_path):
    (tmp_path / "workload_sleeper.py").write_text(
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    backend = local(tmp_path)
    directory = tmp_path / "sleeper" / "1"
    handle = backend.submit(
        JobSpec("sleeper.1", directory, "workload_sleeper", environment={"PYTHONPATH": str(tmp_path)})
    )
    while not re.search(rb"^\d+$", backend.logs(handle, 0), re.M):
        time.sleep(0.05)
    yield backend, handle
    backend.cancel(handle)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def child_of(backend, handle) -> int:
    return int(re.search(rb"^(\d+)$", backend.logs(handle, 0), re.M)[1])


def pid_of(handle) -> int:
    return int(SubmissionDirectory(handle.directory).read_handle()["process"].split()[0])


def test_cancelling_ends_the_job_and_its_children_also_one_with_a_session_of_its_own(sleeping):
    backend, handle = sleeping
    child = child_of(backend, handle)
    assert backend.poll([handle])[handle.key].ending is None
    backend.cancel(handle)
    backend.cancel(handle)
    assert not alive(child)
    assert wait(backend, handle).ending == Ending.CANCELLED


def test_a_job_killed_from_outside_is_not_a_success(sleeping):
    backend, handle = sleeping
    os.killpg(pid_of(handle), signal.SIGKILL)
    assert wait(backend, handle).ending == Ending.NO_EXIT_FILE


def test_a_recycled_pid_or_another_boot_is_not_mistaken_for_the_job(tmp_path):
    me, submission = this_process(), SubmissionDirectory(tmp_path / "job" / "1")
    submission.path.mkdir(parents=True)
    backend, handle = local(tmp_path), Handle("job.1", submission.path, f":{submission.path}")
    for process, ending in (
        (f"{me['pid']} 1 {me['boot']} {me['host']}", Ending.LAUNCH_ERROR),
        (f"{me['pid']} {me['ticks']} another-boot {me['host']}", Ending.NODE_FAIL),
        (f"{me['pid']} {me['ticks']} {me['boot']} {me['host']}", None),
        (f"{me['pid']} 1 another-boot another-host", None),
    ):
        (submission.path / "process").write_text(process + "\n")
        deadline = time.monotonic() + 6
        while (status := backend.poll([handle])["job.1"]).ending != ending and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status.ending == ending


def test_the_time_limit_of_a_site_without_a_scheduler_warns_and_then_ends_the_job(tmp_path):
    (tmp_path / "workload_stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: print('asked to save', flush=True))\n"
        "while True: time.sleep(0.1)\n"
    )
    site = load_sites().site("local").model_copy(update={"warn_s": 2})
    (tmp_path / "state").mkdir()
    backend = ProcessBackend(site, tmp_path / "state")
    needs = Needs(time_limit_s=4)
    handle = backend.submit(
        JobSpec("late.1", tmp_path / "late" / "1", "workload_stubborn", needs, {"PYTHONPATH": str(tmp_path)})
    )
    assert wait(backend, handle).ending == Ending.TIMEOUT
    assert b"asked to save" in backend.logs(handle, 0)


def test_logs_are_read_from_an_offset(sleeping):
    backend, handle = sleeping
    whole = backend.logs(handle, 0)
    assert backend.logs(handle, 2) == whole[2:]


def test_a_site_that_does_not_exist_is_refused(home):
    outcome, results, _ = run_probe(home, "work", site="moon")
    failure = next(event for event in outcome.all_events if event.is_step_failure)
    assert not results and "there is no site 'moon'" in failure.step_failure_data.user_failure_data.description


def test_a_result_frame_keeps_its_types(home):
    _, (result,), _ = run_probe(home, "work")
    assert result.rows.frame.schema == pl.Schema({"note": pl.String()})


@pytest.mark.parametrize(("behaviour", "ending"), [("work", "SUCCEEDED"), ("raise", "USER_ERROR"), ("sleep", None)])
def test_what_must_not_be_lost_is_kept_however_the_job_ends_also_when_the_run_is_interrupted(
    home, monkeypatch, behaviour, ending
):
    kept = []

    @dg.asset
    def probe(context: dg.AssetExecutionContext, compute: Compute):
        params = {"behaviour": behaviour, "text": "x"}
        yield from compute.run(context, "workload_probe", inputs={}, params=params, on_end=lambda d, s: kept.append(s))
        yield dg.MaterializeResult()

    if behaviour == "sleep":

        def interrupted(self, handles):
            raise KeyboardInterrupt

        monkeypatch.setattr(ProcessBackend, "poll", interrupted)
    with dg.DagsterInstance.ephemeral(tempdir=str(home.root)) as instance:
        resources = {"compute": Compute(home=str(home.root))}
        try:
            dg.materialize([probe], resources=resources, instance=instance, raise_on_error=False)
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            assert behaviour == "sleep"
    for job in open_jobs(home.jobs):  # an interrupted run leaves its job running
        local(home.root).cancel(job.submission(1).handle())
    (status,) = kept
    assert (None if status is None else status.ending) == ending
