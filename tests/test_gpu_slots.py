"""GPU slots: real processes and real locks; nvidia-smi is a stand-in."""

import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_node import A100, P100, SECOND_A100, Node, wait_for

from home import ROOT
from resources.compute.interface import Needs
from workloads import gpu_slots
from workloads.gpu_slots import Gpu, GpuQueryFailed, TooFewGpus, computing_processes, node_gpus, take_gpus


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def here(node, monkeypatch) -> Node:
    """The same node, for calls in this process."""
    monkeypatch.setenv("PATH", f"{node.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("TRACEBED_GPU_LOCKS", str(node.locks))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return node


def test_a_second_job_waits_for_the_only_gpu_and_says_once_for_whom(node):
    node.has(A100)
    first, second = (node.submission(key, Needs(gpus=1)) for key in ("first-job", "second-job"))
    holder = node.start(first, PROBE_WAITS="1")
    wait_for((first / "ran").exists)
    waiter = node.start(second)
    wait_for(lambda: "waiting" in node.log(second))
    time.sleep(1.5)
    assert not (second / "ran").exists()
    assert node.log(second).count("waiting for 1 of 1 GPU: GPU 0 is held by") == 1
    assert f"pid {holder.pid} of job first-job (user " in node.log(second)
    (first / "go").touch()
    assert (holder.wait(60), waiter.wait(60)) == (0, 0)
    assert (second / "ran").exists()


def test_kill_9_frees_the_slot_at_once(node):
    node.has(A100)
    first, second = (node.submission(key, Needs(gpus=1)) for key in ("first", "second"))
    holder = node.start(first, PROBE_WAITS="1")
    wait_for((first / "ran").exists)
    waiter = node.start(second)
    wait_for(lambda: "waiting" in node.log(second))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert waiter.wait(60) == 0


def test_jobs_that_want_both_gpus_neither_deadlock_nor_meet(node):
    node.has(A100, SECOND_A100)
    launches = [node.submission(f"job-{number}", Needs(gpus=2)) for number in range(4)]
    jobs = [node.start(launch) for launch in launches]
    assert [job.wait(120) for job in jobs] == [0] * 4
    ran = [json.loads((launch / "ran").read_text()) for launch in launches]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in ran} == {"0,1"}
    spans = sorted(
        (each["began"], float((launch / "ended").read_text())) for each, launch in zip(ran, launches, strict=True)
    )
    assert all(ended < begins for (_, ended), (begins, _) in itertools.pairwise(spans))


def test_two_jobs_with_one_gpu_each_run_side_by_side(node):
    node.has(A100, SECOND_A100)
    launches = [node.submission(key, Needs(gpus=1)) for key in ("first", "second")]
    jobs = [node.start(launch, PROBE_WAITS="1") for launch in launches]
    for launch in launches:
        wait_for((launch / "ran").exists)
        (launch / "go").touch()
    assert [job.wait(60) for job in jobs] == [0, 0]


def test_a_gpu_on_which_others_compute_is_left_out(here):
    here.has(A100, SECOND_A100, apps=f"{A100.rsplit(', ', maxsplit=1)[-1]}, {os.getpid()}, python, with a comma\n")
    slots = take_gpus(1, "mine", print)
    _close(slots)
    assert slots.indices == (1,)


def test_it_says_who_computes_without_a_slot_and_goes_on_when_they_have_ended(here, monkeypatch):
    monkeypatch.setattr(gpu_slots, "_PAUSE_FOR_OTHERS_S", 0.05)
    here.has(A100, apps=f"{A100.rsplit(', ', maxsplit=1)[-1]}, {os.getpid()}, python\n")
    said = []

    def say(line: str) -> None:
        said.append(line)
        here.has(A100)

    slots = take_gpus(1, "mine", say)
    _close(slots)
    assert slots.indices == (0,)
    (line,) = said
    assert f"on GPU 0 computes pid {os.getpid()} (python, user " in line
    assert "took no slot" in line


def test_more_gpus_than_the_node_has_are_not_waited_for(here):
    here.has(A100)
    with pytest.raises(TooFewGpus, match=r"^1 GPU$"):
        take_gpus(2, "mine", print)


def test_nothing_stays_locked_where_nvidia_smi_fails(here):
    here.has(A100)
    smi = (here.bin / "nvidia-smi").read_text()
    (here.bin / "nvidia-smi").write_text(
        smi.replace('cat "$folder/apps"', "echo Unable to determine the handle; exit 9")
    )
    with pytest.raises(GpuQueryFailed, match="ended with 9 and said: Unable to determine"):
        take_gpus(1, "mine", print)
    (here.bin / "nvidia-smi").write_text(smi)
    _close(take_gpus(1, "mine", pytest.fail))


def test_locks_are_open_to_all_users_whatever_the_umask(here):
    here.has(A100)
    before = os.umask(0o077)
    try:
        _close(take_gpus(1, "mine", print))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(here.locks.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(path.stat().st_mode) for path in here.locks.iterdir()} == {0o666}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as two users")
def test_another_user_waits_for_the_same_lock_and_takes_it():
    python = shutil.which("python3", path="/usr/bin")
    if python is None or not os.access(python, os.X_OK):
        pytest.skip("there is no /usr/bin/python3 that another user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        node = Node(Path(name))
        node.has(A100)
        environment = node.environment(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
        take = (
            "from workloads.gpu_slots import take_gpus; "
            "take_gpus(1, {job!r}, lambda line: print(line, flush=True)); print('taken', flush=True)"
        )
        pipes: dict[str, Any] = {
            "env": environment,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }
        probe = subprocess.run(
            [python, "-c", "import workloads.gpu_slots"], user="nobody", cwd="/", check=False, **pipes
        )
        if probe.returncode:
            pytest.skip(f"another user cannot run the code at {ROOT}: {probe.stdout.splitlines()[-1]}")
        hold = take.format(job="mine") + "; input()"
        mine: Any = subprocess.Popen([python, "-c", hold], stdin=subprocess.PIPE, **pipes)
        try:
            assert mine.stdout.readline() == "taken\n"
            theirs: Any = subprocess.Popen([python, "-c", take.format(job="theirs")], user="nobody", cwd="/", **pipes)
            assert "of job mine (user root)" in theirs.stdout.readline()
        finally:
            mine.communicate("\n", timeout=60)
        assert theirs.communicate(timeout=60)[0].strip() == "taken"


def test_a_driver_too_old_to_say_the_capability_still_lists_its_gpus(here):
    here.has(P100, old_driver=True)
    assert node_gpus() == [Gpu(0, "Tesla P100-PCIE-16GB", None, 16270 * 1024**2 / 1e9, 16384 * 1024**2 / 1e9)]


def test_memory_that_nvidia_smi_does_not_know_is_not_zero(here):
    here.has("0, NVIDIA GH200, 9.0, [N/A], [N/A], GPU-0")
    assert node_gpus() == [Gpu(0, "NVIDIA GH200", (9, 0), None, None)]


def test_a_node_without_devices_has_no_gpus(here):
    (here.bin / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert node_gpus() == []
    assert computing_processes() == {}


def test_a_missing_nvidia_smi_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GpuQueryFailed, match="no nvidia-smi on PATH"):
        node_gpus()


def _close(slots) -> None:
    for descriptor in slots.descriptors:
        os.close(descriptor)
