"""Limits of time, memory and disk, on a real Slurm: only what may end otherwise is submitted again."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.slurm import SlurmCluster
from fault_jobs import SMALL, Bench, slurm_site, until
from fault_slurm import accounted, jobs_named, only, output, reference, submitter

from resources.compute.interface import Ending, Needs, Status
from resources.compute.job_directory import JobDirectory, SubmissionDirectory
from resources.compute.sites import Site

pytestmark = pytest.mark.xdist_group("slurm")
CGROUPS = Path("/sys/fs/cgroup/memory")
MINUTE = Needs(cpus=1, memory_gb=0.2, disk_gb=0, time_limit_s=60)


@pytest.mark.fault(
    "Slurm's time limit comes near, for a training with checkpoints and for a job without",
    "both are warned; the training saves, ends, is submitted again and goes on; the other one ends as TIMEOUT for good",
)
def test_only_a_job_with_a_checkpoint_is_submitted_again_after_its_time_limit(
    cluster, tmp_path, monkeypatch, record_property
):
    # Slurm counts in minutes: warned so early, the jobs get the signal at the controller's next look (every 30 s). It
    # signals once, and a job that is just starting misses it: such a training ends at the limit itself.
    site = slurm_site(cluster, monkeypatch, warn_s=3600)
    training, stubborn = Bench(tmp_path / "training", site), Bench(tmp_path / "stubborn", site)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    ended: dict[str, Status] = {}
    followers = [
        threading.Thread(
            target=lambda: ended.update(
                saved=training.follow("limit-saved", "overrun", 10, 1, str(checkpoints), needs=MINUTE)
            )
        ),
        threading.Thread(target=lambda: ended.update(lost=stubborn.follow("limit-lost", "sleep", 100, needs=MINUTE))),
    ]
    for each in followers:
        each.start()
    for each in followers:
        each.join(200)
    assert {name: status.ending for name, status in ended.items()} == {
        "saved": Ending.SUCCEEDED,
        "lost": Ending.TIMEOUT,
    }
    job = JobDirectory(training.jobs / "limit-saved")
    before = [job.submission(number) for number in job.submissions()[:-1]]
    assert before
    for files in before:
        assert files.read_ended()["ending"] == Ending.TIMEOUT
        assert files.launch().exit_code() == 1
        following = job.submission(int(files.path.name) + 1).read_log(0).decode()
        assert f"begins after step {files.launch().checkpoint_step()}" in following
    last = before[-1].launch().checkpoint_step() + 10
    assert len(list(checkpoints.iterdir())) == last
    assert JobDirectory(stubborn.jobs / "limit-lost").submissions() == [1]
    assert jobs_named(cluster, "limit-lost") == {"limit-lost": 1}
    steps = ", ".join(str(files.launch().checkpoint_step()) for files in before)
    record_property(
        "measured", f"training: TIMEOUT at step {steps} of {last}, then SUCCEEDED; other job: TIMEOUT, 1 submission"
    )


def limited(folder: Path) -> dict[str, tuple[str, ...]]:
    """An environment whose Python gets no more memory than Slurm granted, as a cluster with cgroups enforces it."""
    script = folder / "limited"
    script.write_text('#!/bin/sh\nulimit -v $((SLURM_MEM_PER_NODE * 1024))\nexec "$@"\n')
    script.chmod(0o755)
    return {"default": (str(script), sys.executable)}


def granted_memory(cluster: SlurmCluster, bench: Bench, name: str, number: int) -> str:
    job = reference(bench, name, number)
    tres = until(lambda: accounted(cluster, job, "AllocTRES"), 20, "sacct, which lags behind, has the job")
    return dict(part.split("=") for part in tres.split(","))["mem"]


@pytest.mark.fault(
    "a job needs more memory than it asked for (MemoryError in its log)",
    "with max_memory_gb it is submitted again with twice as much, up to that; without, never",
)
def test_a_job_out_of_memory_asks_for_twice_as_much(cluster, tmp_path, monkeypatch, record_property):
    environments = limited(tmp_path)
    needs = Needs(cpus=1, memory_gb=0.25, disk_gb=0)
    doubling = Bench(tmp_path / "a", slurm_site(cluster, monkeypatch, environments=environments, max_memory_gb=1))
    assert doubling.follow("memory-600", "memory", 600, needs=needs).ending == Ending.SUCCEEDED
    job = JobDirectory(doubling.jobs / "memory-600")
    assert [job.submission(number).read_ended()["ending"] for number in job.submissions()] == [
        Ending.OUT_OF_MEMORY,
        Ending.OUT_OF_MEMORY,
        Ending.SUCCEEDED,
    ]
    asked = [granted_memory(cluster, doubling, "memory-600", number) for number in (1, 2, 3)]
    assert asked == ["256M", "512M", "1G"]

    hopeless = doubling.follow("memory-2000", "memory", 2000, needs=Needs(cpus=1, memory_gb=0.7, disk_gb=0))
    assert hopeless.ending == Ending.OUT_OF_MEMORY
    assert JobDirectory(doubling.jobs / "memory-2000").submissions() == [1, 2]
    assert granted_memory(cluster, doubling, "memory-2000", 2) == "1G"

    never = Bench(tmp_path / "b", slurm_site(cluster, monkeypatch, environments=environments))
    status = never.follow("memory-never", "memory", 600, needs=needs)
    assert status.ending == Ending.OUT_OF_MEMORY
    assert "MemoryError" in status.detail
    assert JobDirectory(never.jobs / "memory-never").submissions() == [1]
    record_property("measured", f"asked for {', '.join(asked)}; without max_memory_gb 1 submission")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 200 MB."""
    folder = CGROUPS / f"tracebed-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(200 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup (version 1) can be made here: {error}")
    yield folder
    members = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    for pid in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    until(lambda: not (folder / "cgroup.procs").read_text().split(), 10, "the cgroup is empty")
    folder.rmdir()


@pytest.mark.fault(
    "the kernel kills the workload at the limit of its memory cgroup (no scheduler says so)",
    "OUT_OF_MEMORY by the kernel's count",
)
def test_a_workload_that_the_kernel_kills_for_memory_is_out_of_memory(small_cgroup, tmp_path, record_property):
    bench = Bench(tmp_path, Site(name="local", poll_s=0.2))
    inside = {"FAULT_CGROUP": str(small_cgroup)}
    output(submitter(bench, "submit", "big", behaviour=("memory", 400), **inside), 60)
    big = SubmissionDirectory(bench.jobs / "big" / "1").handle()
    status = bench.ended(big)
    assert status.ending == Ending.OUT_OF_MEMORY
    assert "kernel" in status.detail
    assert SubmissionDirectory(big.directory).launch().exit_code() == 137
    record_property("measured", "exit code 137, oom_kill counted: OUT_OF_MEMORY")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of the jobs of a bench, with half a megabyte of room."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@pytest.mark.fault("the job fills the disk of its own directory", "never success; the ending names the disk")
def test_a_job_that_fills_its_disk_does_not_succeed(cluster, small_disk, monkeypatch, record_property):
    bench = Bench(small_disk.parent, slurm_site(cluster, monkeypatch))
    handle = bench.submit("filling", "fill", str(small_disk / "full"))
    status = bench.ended(handle)
    assert status.ending == Ending.NO_EXIT_FILE
    assert "disk" in status.detail
    record_property("measured", f"{status.ending}: {status.detail}")


@pytest.mark.fault(
    "the disk is full before the job begins: while it waits, and before it is submitted",
    "never success: LAUNCH_ERROR or an error that names the disk; no Slurm job in the second case",
)
def test_a_job_on_a_full_disk_does_not_begin(cluster, small_disk, monkeypatch, record_property):
    bench = Bench(small_disk.parent, slurm_site(cluster, monkeypatch))
    only(cluster)
    waiting = bench.submit("waiting", "exit", 0)
    fill(small_disk)
    only(cluster, *cluster.nodes)
    status = bench.ended(waiting)
    assert status.ending in {Ending.LAUNCH_ERROR, Ending.NO_EXIT_FILE}
    assert "disk" in status.detail
    assert str(waiting.directory) in status.detail
    with pytest.raises(OSError, match=f"No space left on device.*{small_disk}"):
        bench.follow("too-late", "exit", 0, needs=SMALL)
    assert jobs_named(cluster, "too-late") == {}
    said = status.detail.replace(str(bench.jobs), "`jobs`")
    record_property("measured", f"{status.ending}: {said}")
