"""Runs and jobs after the orchestrator died, whole: a real daemon, a real Slurm, the platform's own assets."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from cluster.processes import kill_all
from dagster._core.events import EngineEventData
from fault_jobs import Bench, until

from assets.operations.jobs import JOBS
from assets.operations.sensors import MOST_FOLLOWERS
from assets.spatial.keys import SECTION
from defs import build_defs
from home import ROOT, Home
from io_managers.tables import TableStore
from materialise import materialise, submit
from registry import register_section
from resources.compute.compute import JOB_TAG, ROOT_RUN_TAG, Compute
from resources.compute.interface import Needs
from resources.compute.job_directory import JobDirectory, every_job, open_jobs, write_text
from resources.compute.process import this_process
from resources.compute.running import end_submission
from resources.compute.sites import SshHost, load_sites
from science.spatial.simulate import simulate_cortex
from science.spatial.simulated_files import write_annotated

KEYS = ("a", "b", "c")


class Orchestrator:
    """A home with three sections, and a daemon on it that can be killed with everything that it started."""

    def __init__(self, folder: Path, sites: str):
        (folder / "sites.toml").write_text(sites)
        self.home = Home(folder / "home").ensure()
        self.marker = f"TRACEBED_TEST_ORCHESTRATOR={folder.name}-{os.getpid()}"
        name, _, value = self.marker.partition("=")
        self.environment = {
            **os.environ,
            **self.home.environment(),
            "TRACEBED_SITES": str(folder / "sites.toml"),
            name: value,
        }
        self.log = (folder / "daemon.log").open("w")

    def on_slurm(self, cluster, monkeypatch, begin_s: int) -> None:
        """Jobs run on the test cluster, and begin only after some seconds."""
        for name, value in cluster.environment().items():
            self.environment[name] = value
            monkeypatch.setenv(name, value)
        site = f'scheduler = "slurm"\npartition = "gpu"\npoll_s = 1.0\noptions = ["--begin=now+{begin_s}"]\n'
        sites = f'[runs_on]\ndefault = "cluster"\n[sites.cluster]\n{site}'
        Path(self.environment["TRACEBED_SITES"]).write_text(sites)

    def start(self) -> None:
        command = [Path(sys.executable).with_name("dagster-daemon"), "run", "-w", ROOT / "workspace.yaml"]
        subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL the daemon, its code server, its runs; the jobs, which have left them, go on."""
        while mine := [pid for pid in _processes(self.marker) if b"TRACEBED_JOB=" not in _environment(pid)]:
            kill_all(mine)
            time.sleep(0.1)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or it is nobody's
        return b""


def _processes(marker: str) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if marker.encode() in _environment(pid) and not _zombie(pid)]


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def orchestrator(tmp_path, monkeypatch):
    """On this host's own site; `on_slurm` changes that."""
    made = Orchestrator(tmp_path, "[sites.local]\npoll_s = 0.5\n")
    for name in ("TRACEBED_HOME", "DAGSTER_HOME", "TRACEBED_SITES"):
        monkeypatch.setenv(name, made.environment[name])
    with dg.DagsterInstance.get() as instance:
        for seed, key in enumerate(KEYS):
            path = tmp_path / f"{key}.h5ad"
            write_annotated(simulate_cortex(key, seed=seed, n_rows=20, n_cols=20, n_genes=60), path)
            register_section(made.home, key, path)
        made.instance = instance
        yield made
    made.kill()
    bench = Bench(tmp_path / "bench", load_sites().site("local"))
    for job in open_jobs(made.home.jobs):
        for number in job.submissions():
            if load_sites().sites[job.recorded()["site"]].scheduler == "none" and (
                handle := job.submission(number).handle()
            ):
                bench.backend.cancel(handle)
    made.log.close()


def _runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(instance.get_runs())


def _materialised(instance: dg.DagsterInstance, key: str) -> int:
    records = dg.AssetRecordsFilter(asset_key=SECTION, asset_partitions=[key])
    return len(instance.fetch_materializations(records, limit=10).records)


@pytest.mark.fault(
    "the whole orchestrator (daemon, code server, runs) SIGKILLed while three runs are at different points, then "
    "started anew",
    "each run's job is found again: one Slurm job and one launch each, each partition materialised by a new run",
)
def test_runs_of_a_killed_orchestrator_are_followed_again_with_one_job_each(
    cluster, orchestrator, monkeypatch, record_property
):
    orchestrator.on_slurm(cluster, monkeypatch, begin_s=60)  # all three runs are under way when the orchestrator dies
    instance, definitions = orchestrator.instance, build_defs(home=orchestrator.home)
    orchestrator.start()
    points = random.Random(7)
    for key in KEYS:
        submit(instance, definitions, {SECTION: [key]}, key)
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    until(lambda: instance.get_runs_count(started) == 3, 240, "three runs have started")
    time.sleep(points.uniform(0.0, 6.0))
    orchestrator.kill()
    before = {run.run_id: run.status for run in _runs(instance)}
    orchestrator.start()
    until(lambda: all(_materialised(instance, key) for key in KEYS), 300, "all three are materialised")
    jobs = list(every_job(orchestrator.home.jobs))
    launches = [len(job.submission(1).launches()) for job in jobs]
    asked = cluster.run("sacct", "-X", "-n", "-P", "--format=JobName").stdout.split()
    names = [f"{job.path.name}.1" for job in jobs]
    assert [asked.count(name) for name in names] == [1, 1, 1] and launches == [1, 1, 1]
    assert {job.recorded()["partition"] for job in jobs} == set(KEYS)
    assert len(TableStore(orchestrator.home.tables).partitions("section")) == 3
    killed = [run_id for run_id, status in before.items() if status == dg.DagsterRunStatus.STARTED]
    states = {run.run_id: run.status for run in _runs(instance)}
    assert all(states[run_id] == dg.DagsterRunStatus.FAILURE for run_id in killed)
    record_property("measured", f"{len(killed)} of 3 runs were under way; 3 jobs, 3 launches, 3 partitions")


@pytest.mark.fault("a run is cancelled in the UI", "its job is cancelled too, with what it started")
def test_cancelling_a_run_cancels_its_job(cluster, orchestrator, monkeypatch, record_property):
    orchestrator.on_slurm(cluster, monkeypatch, begin_s=600)
    instance, definitions = orchestrator.instance, build_defs(home=orchestrator.home)
    orchestrator.start()
    submit(instance, definitions, {SECTION: ["a"]}, "a")
    (job,) = until(lambda: list(every_job(orchestrator.home.jobs)), 180, "the job is there")
    handle = until(lambda: job.submission(1).handle(), 60, "the job is submitted")
    (run,) = _runs(instance)
    assert run.tags.get(JOB_TAG) == job.path.name
    instance.run_coordinator.cancel_run(run.run_id)
    until(lambda: _runs(instance)[0].status == dg.DagsterRunStatus.CANCELED, 60, "the run is cancelled")
    state = until(
        cluster.run("sacct", "-X", "-n", "-P", "-j", handle.reference, "--format=State").stdout.strip,
        30,
        "sacct knows the job",
    )
    assert state.startswith("CANCELLED")
    assert job.submission(1).read_ended()["ending"] == "CANCELLED" and not open_jobs(orchestrator.home.jobs)
    record_property("measured", f"sacct says {state.split()[0]}")


def _evaluate(orchestrator, definitions):
    sensor = definitions.resolve_sensor_def("reconcile_runs")
    resources = {"compute": Compute(home=str(orchestrator.home.root))}
    with dg.build_sensor_context(instance=orchestrator.instance, resources=resources) as context:
        return sensor(context)


def _dead_follower(orchestrator, status: dg.DagsterRunStatus):
    """A job on this host whose run has a status, and whose follower is a process that has ended."""
    bench = Bench(orchestrator.home.root, load_sites().site("local"))
    bench.backend = type(bench.backend)(bench.site, orchestrator.home.site("local"))
    handle = bench.submit("section-a", "sleep", 300)
    run = orchestrator.instance.create_run_for_job(
        build_defs(home=orchestrator.home).resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset([SECTION]),
        tags={"dagster/partition": "a"},
        status=status,
    )
    code = "import json; from resources.compute.process import this_process; print(json.dumps(this_process()))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    follower = json.loads(ended.stdout)
    dead = EngineEventData.in_process(follower["pid"])
    orchestrator.instance.report_engine_event("the run's own process", run, dead)
    job = JobDirectory(bench.jobs / "section-a")
    write_text(job.path / "followed_by.json", json.dumps(follower | {"run": run.run_id}))
    job.record({"key": job.path.name, "asset": "spatial/section", "partition": "a", "site": "local"})
    job.mark_open()
    bench.running(handle)
    return bench, handle, run, job


def test_a_job_whose_run_was_cancelled_while_nobody_followed_it_is_ended(orchestrator):
    bench, handle, run, _ = _dead_follower(orchestrator, dg.DagsterRunStatus.CANCELING)
    _evaluate(orchestrator, build_defs(home=orchestrator.home))
    assert bench.ended(handle, 20).ending == "CANCELLED"
    assert not open_jobs(orchestrator.home.jobs)
    assert orchestrator.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE])
def test_a_job_whose_follower_died_is_followed_by_a_new_run_of_the_same_root(orchestrator, status):
    bench, handle, run, _ = _dead_follower(orchestrator, status)
    (request,) = _evaluate(orchestrator, build_defs(home=orchestrator.home)).run_requests
    assert request.partition_key == "a" and request.asset_selection == [SECTION]
    assert request.tags[ROOT_RUN_TAG] == run.run_id
    assert orchestrator.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert bench.status(handle).ending is None, "the job itself goes on"
    bench.backend.cancel(handle)


def test_a_job_that_cannot_be_helped_does_not_keep_others_from_being_followed(orchestrator):
    bench, handle, _, job = _dead_follower(orchestrator, dg.DagsterRunStatus.FAILURE)
    gone = JobDirectory(bench.jobs / "aaa-gone")
    gone.path.mkdir()
    write_text(gone.path / "followed_by.json", (job.path / "followed_by.json").read_text())
    gone.record({"key": "aaa-gone", "asset": "spatial/encoder/removed", "partition": "", "site": "local"})
    gone.mark_open()
    (request,) = _evaluate(orchestrator, build_defs(home=orchestrator.home)).run_requests
    assert request.asset_selection == [SECTION]
    bench.backend.cancel(handle)


def test_a_run_whose_own_process_lives_is_not_called_dead_when_one_of_its_steps_is(orchestrator):
    bench, handle, run, _ = _dead_follower(orchestrator, dg.DagsterRunStatus.STARTED)
    orchestrator.instance.report_engine_event("another step", run, EngineEventData.in_process(os.getpid()))
    assert isinstance(_evaluate(orchestrator, build_defs(home=orchestrator.home)), dg.SkipReason)
    assert orchestrator.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
    bench.backend.cancel(handle)


def test_a_job_is_followed_a_bounded_number_of_times(orchestrator):
    bench, handle, run, _ = _dead_follower(orchestrator, dg.DagsterRunStatus.FAILURE)
    for _ in range(MOST_FOLLOWERS):
        orchestrator.instance.create_run_for_job(
            build_defs(home=orchestrator.home).resolve_implicit_global_asset_job_def(),
            asset_selection=frozenset([SECTION]),
            tags={ROOT_RUN_TAG: run.run_id},
            status=dg.DagsterRunStatus.FAILURE,
        )
    assert isinstance(_evaluate(orchestrator, build_defs(home=orchestrator.home)), dg.SkipReason)
    bench.backend.cancel(handle)


def test_a_run_cancelled_while_its_job_is_being_submitted_leaves_nothing_that_runs(orchestrator):
    bench = Bench(orchestrator.home.root, load_sites().site("local"))
    handle = bench.submit("late", "sleep", 300)
    bench.running(handle)
    files = JobDirectory(bench.jobs / "late").submission(1)
    (files.path / "handle.json").unlink()  # as when the interrupt came before the site's answer was written down
    end_submission(bench.backend, files)
    assert bench.ended(handle, 20).ending == "CANCELLED"
    never = JobDirectory(bench.jobs / "never").submission(1)
    never.mark_cancelled()
    late = bench.submit("never", "sleep", 300)
    assert bench.ended(late, 20).ending == "CANCELLED" and not never.launches()


def test_a_second_follower_does_not_take_the_fence_from_the_running_submission(tmp_path):
    job = JobDirectory(tmp_path)
    job.replace_submissions_before(2)
    write_text(job.fence, "2 the-launch-that-counts\n")
    job.replace_submissions_before(2)
    assert job.fence.read_text() == "2 the-launch-that-counts\n"


def test_a_job_that_is_followed_is_left_alone(orchestrator):
    bench, handle, _, job = _dead_follower(orchestrator, dg.DagsterRunStatus.STARTED)
    write_text(job.path / "followed_by.json", json.dumps(this_process() | {"run": "someone"}))
    assert isinstance(_evaluate(orchestrator, build_defs(home=orchestrator.home)), dg.SkipReason)
    bench.backend.cancel(handle)


def test_the_table_of_jobs_names_every_submission(orchestrator):
    definitions = build_defs(home=orchestrator.home)
    assert materialise(definitions, orchestrator.instance, SECTION, "a") is None
    assert materialise(definitions, orchestrator.instance, JOBS, None) is None
    (row,) = TableStore(orchestrator.home.tables).scan("jobs").iter_rows(named=True)
    assert (row["asset"], row["partition"], row["site"], row["ending"]) == (
        "spatial/section",
        "a",
        "local",
        "SUCCEEDED",
    )
    assert row["node"] and row["submitted_at"] <= row["ended_at"]
    event = orchestrator.instance.get_latest_materialization_event(JOBS).asset_materialization
    assert f"| spatial/section | a | local | {row['node']} | SUCCEEDED |" in event.metadata["newest"].value
    lineage = TableStore(orchestrator.home.tables).scan("lineage").filter(pl.col("asset") == "spatial/section")
    assert set(lineage["job_key"]) == {row["key"]} and set(lineage["node"]) == {row["node"]}


def test_a_job_that_its_site_cannot_run_is_closed_and_not_followed_again_and_again(orchestrator):
    site = load_sites().site("local").model_copy(update={"ssh": SshHost(host="nowhere", user="nobody")})
    bench = Bench(orchestrator.home.root, site)
    status = bench.follow("unfit", "exit", 0, needs=Needs(environment="not-there"))
    assert status.ending == "LAUNCH_ERROR" and "has no environment 'not-there'" in status.detail
    assert not open_jobs(bench.jobs)
