"""Nodes that fail and jobs that are driven away, on a real Slurm: they go on elsewhere, their old copies are mute."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.slurm import SlurmCluster
from fault_jobs import Bench, slurm_site, until
from fault_slurm import accounted, jobs_named, launches, only, reference

from resources.compute.excluded import ExcludedNodes
from resources.compute.interface import Ending, Needs, Status
from resources.compute.job_directory import JobDirectory, Launch

pytestmark = pytest.mark.xdist_group("slurm")
WHOLE_NODE = Needs(cpus=8, memory_gb=0.2, disk_gb=0)
STEPS, STEP_S = 110, 0.5
"""Longer than Slurm takes to call a node failed and to start a requeued job."""


class Training:
    """A training that somebody follows, retries included, while a test does other things."""

    def __init__(self, bench: Bench, name: str, checkpoints: Path, steps: int):
        self.bench, self.name, self.checkpoints = bench, name, checkpoints
        checkpoints.mkdir(parents=True)
        self.status: Status | None = None
        self._follower = threading.Thread(target=self._follow, args=(steps,), daemon=True)
        self._follower.start()

    def _follow(self, steps: int) -> None:
        self.status = self.bench.follow(self.name, "train", steps, STEP_S, str(self.checkpoints))

    def end(self) -> Status:
        self._follower.join(150)
        assert self.status is not None, f"{self.name} has not ended: {self.bench.said}"
        return self.status

    @property
    def job(self) -> JobDirectory:
        return JobDirectory(self.bench.jobs / self.name)

    def saved(self) -> dict[int, str]:
        """The launch that wrote each checkpoint."""
        found = {int(path.name.removeprefix("step-")): path.read_text() for path in self.checkpoints.glob("step-*")}
        return dict(sorted(found.items()))

    def written_at(self, step: int) -> float:
        return (self.checkpoints / f"step-{step}").stat().st_mtime


@dataclass(frozen=True)
class Failure:
    cluster: SlurmCluster
    resubmitted: Training
    elsewhere_or_not: Training
    requeued: Training
    killed_at: float


@pytest.fixture(scope="module")
def failure(slurm: SlurmCluster, tmp_path_factory) -> Iterator[Failure]:
    """an51 fails under three trainings: two that the platform submits again, one that Slurm itself starts again."""
    slurm.reset()
    folder = tmp_path_factory.mktemp("failure")
    with pytest.MonkeyPatch.context() as patch:
        only(slurm, "an51")
        settings = {"left-out": {}, "used-again": {"exclude_h": 0}, "requeued": {"options": ("--requeue",)}}
        trainings = [
            Training(
                Bench(folder / name, slurm_site(slurm, patch, **setting)),
                name,
                folder / name / "checkpoints",
                STEPS if setting else STEPS - 20,
            )
            for name, setting in settings.items()
        ]
        until(lambda: all(len(each.saved()) > 2 for each in trainings), 60, "all have saved a checkpoint")
        only(slurm, *slurm.nodes)
        killed = folder / "killed"
        slurm.kill_node("an51")
        killed.touch()
        for each in trainings:
            each.end()
        slurm.start_node("an51")
        until(lambda: slurm.node_state("an51") == "IDLE", 60, "an51 is back")
        yield Failure(slurm, *trainings, killed.stat().st_mtime)
    slurm.reset()


def old_and_new(training: Training) -> tuple[Launch, Launch]:
    """The copy on the failed node, and the one that took its place."""
    job = training.job
    every = [launch for number in job.submissions() for launch in job.submission(number).launches()]
    old, new = sorted(every, key=lambda launch: (launch.path / "started").stat().st_mtime)
    assert old.started()["node"] == "an51"
    return old, new


def the_old_copy_wrote_nothing_after_the_new_one_began(training: Training, killed_at: float) -> str:
    """Says how long both lived."""
    old, new = old_and_new(training)
    saved = training.saved()
    by_old = [step for step, launch in saved.items() if launch == old.path.name]
    by_new = [step for step, launch in saved.items() if launch == new.path.name]
    began = (new.path / "started").stat().st_mtime
    assert list(saved) == list(range(1, max(by_new) + 1))
    assert by_old == list(range(1, min(by_new)))
    after_the_kill = [step for step in by_old if training.written_at(step) > killed_at]
    assert after_the_kill, "the old copy did not live on: nothing was shown"
    assert all(training.written_at(step) < began for step in by_old)
    assert not old.result.exists()
    until(lambda: old.exit_code() is not None, 30, "the old copy has ended")
    assert old.exit_code() == 1
    return f"{len(after_the_kill)} checkpoints by the old copy after the kill, none after the new launch began"


@pytest.mark.fault(
    "slurmd is killed (SIGKILL) under a training; its processes go on",
    "NODE_FAIL; submitted again on another node, with the failed one left out and why; goes on from its checkpoint",
)
def test_a_training_whose_node_fails_goes_on_elsewhere_from_its_checkpoint(failure: Failure, record_property):
    training = failure.resubmitted
    assert training.end().ending == Ending.SUCCEEDED
    ended = training.job.submission(1).read_ended()
    assert ended["ending"] == Ending.NODE_FAIL
    assert training.job.submissions() == [1, 2]
    assert accounted(failure.cluster, reference(training.bench, training.name), "State") == "NODE_FAIL"
    left_out = ExcludedNodes(training.bench.state).current()
    assert set(left_out) == {"an51"}
    assert "its node failed (NODE_FAIL" in left_out["an51"].reason
    assert left_out["an51"].job == f"{training.name}.1"
    _, new = old_and_new(training)
    assert new.started()["node"] in {"an52", "an53"}
    first = min(step for step, launch in training.saved().items() if launch == new.path.name)
    assert f"begins after step {first - 1}" in training.job.submission(2).read_log(0).decode()
    record_property("measured", f"an51 -> {new.started()['node']}; went on from step {first - 1}")


@pytest.mark.fault(
    "the copy on the failed node goes on beside the new one", "it writes no checkpoint and records nothing any more"
)
def test_the_old_copy_of_a_job_submitted_again_is_fenced_out(failure: Failure, record_property):
    training = failure.resubmitted
    measured = the_old_copy_wrote_nothing_after_the_new_one_began(training, failure.killed_at)
    assert "FencedOut" in training.job.submission(1).read_log(0).decode()
    record_property("measured", measured)


@pytest.mark.fault(
    "Slurm itself requeues the job (--requeue) while the old copy lives: two writers of one submission",
    "the fence holds; one success, one Slurm job",
)
def test_two_launches_of_one_submission_leave_one_writer(failure: Failure, record_property):
    training = failure.requeued
    assert training.end().ending == Ending.SUCCEEDED
    assert training.job.submissions() == [1]
    assert len(launches(training.bench, training.name)) == 2
    assert jobs_named(failure.cluster, training.name) == {training.name: 1}
    measured = the_old_copy_wrote_nothing_after_the_new_one_began(training, failure.killed_at)
    assert "FencedOut" in training.job.submission(1).read_log(0).decode()
    assert training.job.submission(1).launch().path == old_and_new(training)[1].path
    record_property("measured", f"1 job, 2 launches; {measured}")


def nodes_of_whole_node_jobs(cluster: SlurmCluster, bench: Bench, name: str) -> set[str]:
    """Where three jobs run that need a node each."""
    followers = [
        threading.Thread(target=bench.follow, args=(f"{name}-{number}", "exit", 0), kwargs={"needs": WHOLE_NODE})
        for number in range(3)
    ]
    only(cluster)  # so that none has ended before the last one is there
    for each in followers:
        each.start()
    paths = [JobDirectory(bench.jobs / f"{name}-{number}").submission(1) for number in range(3)]
    until(lambda: all(path.read_handle() for path in paths), 30, "all are submitted")
    only(cluster, *cluster.nodes)
    for each in followers:
        each.join(60)
    found = set()
    for path in paths:
        launch = path.launch()
        assert launch is not None and launch.exit_code() == 0
        found.add(launch.started()["node"])
    return found


@pytest.mark.fault(
    "the failed node is back", "later jobs avoid it for exclude_h hours, and use it again after (exclude_h = 0)"
)
def test_a_failed_node_is_left_out_for_some_hours(failure: Failure, record_property):
    avoiding, using = failure.resubmitted, failure.elsewhere_or_not
    assert using.job.submission(1).read_ended()["ending"] == Ending.NODE_FAIL
    assert [each.node for each in ExcludedNodes(using.bench.state).history()] == ["an51"]
    avoided = nodes_of_whole_node_jobs(failure.cluster, avoiding.bench, "after")
    used = nodes_of_whole_node_jobs(failure.cluster, using.bench, "after-0-h")
    assert avoided <= {"an52", "an53"}
    assert used == {"an51", "an52", "an53"}
    record_property("measured", f"6 h: 3 jobs on {', '.join(sorted(avoided))}; 0 h: on all three nodes")


@pytest.mark.fault("an urgent job drives ours away", "PREEMPTED; submitted again; it succeeds")
def test_a_preempted_job_is_submitted_again(cluster, tmp_path, monkeypatch, record_property):
    ours = Bench(tmp_path / "ours", slurm_site(cluster, monkeypatch))
    urgent = Bench(tmp_path / "urgent", slurm_site(cluster, monkeypatch, options=("--partition=urgent",)))
    only(cluster, "an51")
    ended: list[Status] = []
    follower = threading.Thread(
        target=lambda: ended.append(ours.follow("driven", "train", 8, 0.5, str(tmp_path), needs=WHOLE_NODE))
    )
    follower.start()
    until((tmp_path / "step-2").exists, 60, "our job works")
    assert urgent.ended(urgent.submit("driver", "sleep", 2, needs=WHOLE_NODE)).ending == Ending.SUCCEEDED
    follower.join(120)
    assert [each.ending for each in ended] == [Ending.SUCCEEDED]
    job = JobDirectory(ours.jobs / "driven")
    assert job.submissions() == [1, 2]
    first = job.submission(1).read_ended()
    assert first["ending"] == Ending.PREEMPTED
    assert first["retried"] == "it was preempted"
    assert ExcludedNodes(ours.state).history() == []
    assert jobs_named(cluster, "driven") == jobs_named(cluster, "driven", number=2) == {"driven": 1}
    record_property("measured", f"PREEMPTED on an51, then SUCCEEDED there; {len(launches(ours, 'driven'))} launches")
