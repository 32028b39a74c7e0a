"""Jobs on this host: what they report comes back, and how they end is told apart."""

import os
import signal
import threading
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from home import Home
from resources.compute.compute import Compute
from resources.compute.interface import Ending, JobSpec
from resources.compute.job_directory import JobDirectory
from resources.compute.local import LocalBackend

TESTS = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def probe_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


def run_probe(home: Home, behaviour: str, **params):
    results = []

    @dg.asset(check_specs=[dg.AssetCheckSpec("looks_right", asset="probe")])
    def probe(context: dg.AssetExecutionContext, compute: Compute):
        run = compute.run(context, "workload_probe", inputs={}, params={"behaviour": behaviour, **params})
        result = yield from run
        results.append(result)
        yield dg.MaterializeResult(metadata=result.metadata, check_results=list(result.checks))

    with dg.DagsterInstance.ephemeral(tempdir=str(home.root)) as instance:
        outcome = dg.materialize(
            [probe], resources={"compute": Compute(home=str(home.root))}, instance=instance, raise_on_error=False
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
    directory = JobDirectory(result.directory)
    assert "probe prints 'quotes' $HOME" in directory.log.read_text()
    assert (result.directory / "environment").stat().st_mode & 0o777 == 0o600
    assert directory.exit_code() == 0


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


def spec(directory: Path, key: str = "job") -> JobSpec:
    return JobSpec(key, directory, "timeit", environment={"TRICKY": "a'b\"c $HOME\nd"})


def wait(backend: LocalBackend, handle, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = backend.poll([handle])[handle.key]
        if status.ending is not None:
            return status
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def test_submitting_a_key_twice_or_from_eight_threads_starts_it_once(tmp_path):
    backend, handles = LocalBackend(), []
    threads = [threading.Thread(target=lambda: handles.append(backend.submit(spec(tmp_path)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({handle.reference for handle in handles}) == 1
    assert backend.submit(spec(tmp_path)) == handles[0]
    assert wait(backend, handles[0]).ending == Ending.SUCCEEDED


@pytest.fixture
def sleeping(tmp_path):
    (tmp_path / "workload_sleeper.py").write_text(
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    backend = LocalBackend()
    directory = tmp_path / "job"
    handle = backend.submit(
        JobSpec("sleeper", directory, "workload_sleeper", environment={"PYTHONPATH": str(tmp_path)})
    )
    while not backend.logs(handle, 0).endswith(b"\n"):
        time.sleep(0.05)
    yield backend, handle
    backend.cancel(handle)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cancelling_ends_the_job_and_its_children(sleeping):
    backend, handle = sleeping
    child = int(backend.logs(handle, 0))
    assert backend.poll([handle])[handle.key].ending is None
    backend.cancel(handle)
    backend.cancel(handle)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
    assert backend.poll([handle])[handle.key].ending in (Ending.NO_EXIT_FILE, Ending.USER_ERROR)


def test_a_job_killed_from_outside_is_not_a_success(sleeping):
    backend, handle = sleeping
    os.killpg(int(handle.reference.partition("@")[0]), signal.SIGKILL)
    assert wait(backend, handle).ending == Ending.NO_EXIT_FILE


def test_a_recycled_pid_is_not_mistaken_for_the_job(tmp_path):
    backend = LocalBackend()
    handle = backend.submit(spec(tmp_path))
    wait(backend, handle)
    stranger = type(handle)("job", tmp_path, f"{os.getpid()}@1")
    (tmp_path / "exit").unlink()
    assert backend.poll([stranger])["job"].ending == Ending.NO_EXIT_FILE


def test_logs_are_read_from_an_offset(sleeping):
    backend, handle = sleeping
    whole = backend.logs(handle, 0)
    assert backend.logs(handle, 2) == whole[2:]


def test_a_site_that_does_not_exist_is_refused(home):
    with pytest.raises(dg.DagsterInvalidConfigError, match="no site 'moon'"):
        Compute(home=str(home.root), site="moon")._backend()


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

        monkeypatch.setattr(LocalBackend, "poll", interrupted)
    with dg.DagsterInstance.ephemeral(tempdir=str(home.root)) as instance:
        resources = {"compute": Compute(home=str(home.root))}
        try:
            dg.materialize([probe], resources=resources, instance=instance, raise_on_error=False)
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            assert behaviour == "sleep"
    (status,) = kept
    assert (None if status is None else status.ending) == ending
