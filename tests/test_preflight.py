"""The preflight: real folders, file systems and interpreters, and the way from `on_node` to the workload."""

import ast
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from gpu_node import A100, SECOND_A100, Node, failed, run

from home import ROOT
from resources.compute import endings
from resources.compute.interface import Ending, JobSpec, Needs, State
from resources.compute.job_directory import SubmissionDirectory, write_text
from workloads import on_node, preflight
from workloads.preflight import Job, module_is_there, packages_are_there, room, training_intent, writable

MODULES = ("on_node", "preflight", "preflight_gpu", "gpu_slots")


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


# --- on_node ---------------------------------------------------------------------------------------------------------


def test_the_workload_is_the_same_process_and_sees_only_its_gpu(node):
    node.has(A100, SECOND_A100)
    launch = node.submission("a-job", Needs(gpus=1, gpu_memory_gb=70, packages=("torch", "numpy")))
    process = node.start(launch)
    assert process.wait(60) == 0, node.log(launch)
    ran = json.loads((launch / "ran").read_text())
    assert ran["pid"] == process.pid
    assert (ran["CUDA_VISIBLE_DEVICES"], ran["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")
    report = json.loads((launch / "preflight.json").read_text())
    assert (report["ending"], report["sentence"], report["gpus"]) == (None, "", "0")
    assert "GPU architecture" in {check["name"] for check in report["checks"]}


def test_a_failed_check_ends_the_job_before_its_work_with_every_reason(node):
    needs = Needs(packages=("no_such_package", "numpy", "nor_this"), disk_gb=1e9)
    code, launch, report = run(node, needs)
    assert code == on_node.EXIT_PREFLIGHT
    assert not (launch / "ran").exists()
    assert report["ending"] == "LAUNCH_ERROR"
    assert set(failed(report)) == {"packages", "space in the job's folder", "space in the temporary folder"}
    assert failed(report)["packages"]["found"] == "no no_such_package, no nor_this"
    for said in (report["sentence"], (launch / "error").read_text(), node.log(launch)):
        assert "no no_such_package, no nor_this" in said
        assert "expected 1e+09 GB" in said
    assert all(check["advice"] and check["found"] and check["expected"] for check in failed(report).values())


def test_a_failed_preflight_is_how_the_job_has_ended(tmp_path):
    directory = tmp_path / "a-job" / "1"
    spec = JobSpec("a-job", directory, "workloads.no_such_module")
    files = SubmissionDirectory(directory)
    files.prepare(spec, [sys.executable, "-m", "workloads.on_node", spec.module], ROOT, None, 0)
    with files.log.open("wb") as log:
        subprocess.run(["/bin/sh", files.script], stdout=log, stderr=log, check=False)
    status = endings.status(files, endings.Seen(State.ENDED))
    assert status.ending == Ending.LAUNCH_ERROR
    assert "no workloads.no_such_module from" in status.detail


def test_an_older_python_is_named_and_not_a_traceback(node):
    found = next((str(path) for path in Path.home().glob(".pyenv/versions/3.[89].*/bin/python")), None)
    if (found := found or shutil.which("python3.10")) is None:
        pytest.skip("no older Python is installed here")
    launch = node.submission("a-job", Needs())
    places = {"TRACEBED_LAUNCH": str(launch), "TRACEBED_SUBMISSION_DIR": str(launch.parents[1])}
    environment = node.environment(**places, PYTHONPATH="", PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(
        [found, "-m", "workloads.on_node", "slot_probe"],
        env=environment,
        cwd=ROOT,
        check=False,
        text=True,
        capture_output=True,
    )
    assert done.returncode == on_node.EXIT_PREFLIGHT, done.stderr
    assert f"at {found}, expected Python 3.11" in (launch / "error").read_text()


@pytest.mark.parametrize("module", MODULES)
def test_what_starts_first_can_be_read_by_an_older_python(module):
    ast.parse((ROOT / "workloads" / f"{module}.py").read_text(), feature_version=(3, 8))


def test_it_starts_with_the_standard_library_alone():
    listed = "import sys; before = set(sys.modules); import workloads.on_node, workloads.preflight; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listed], cwd=ROOT, check=True, text=True, capture_output=True)
    ours = {
        name
        for name in done.stdout.split()
        if name.split(".")[0] in ("workloads", "resources", "science", "numpy", "torch")
    }
    assert ours == {"workloads", "workloads.on_node", "workloads.preflight"}


def test_codes_and_endings_are_those_that_the_orchestrator_reads():
    assert on_node.EXIT_PREFLIGHT == endings.EXIT_PREFLIGHT
    assert {preflight.CUDA_ARCH, preflight.LAUNCH_ERROR} <= set(Ending)


# --- folders, space, code --------------------------------------------------------------------------------------------


@contextmanager
def small_file_system(folder: Path, options: str):
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mount was refused: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_found_before_the_work(tmp_path):
    with small_file_system(tmp_path / "full", "size=1m") as folder:
        assert writable("launch folder", folder).passed
        (folder / "filling").write_bytes(bytes(1 << 20))
        check = writable("launch folder", folder)
        assert not check.passed
        assert "No space left on device" in check.found
        space, _ = room("job's folder", folder, 0.001)
        assert not space.passed
        assert space.found == f"0.00 GB free at {folder}"


def test_a_full_disk_still_ends_with_the_code_and_the_log_says_why(node):
    with small_file_system(node.folder / "full", "size=64k") as folder:
        full = Node.__new__(Node)
        full.__dict__ |= vars(node) | {"folder": folder}
        launch = full.submission("a-job", Needs())
        (launch.parents[1] / "log").touch()
        places = {"TRACEBED_LAUNCH": str(launch), "TRACEBED_SUBMISSION_DIR": str(launch.parents[1])}
        with pytest.raises(OSError, match="No space left"), (folder / "filling").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        argv = [sys.executable, "-m", "workloads.on_node", "slot_probe"]
        environment = node.environment(**places)
        done = subprocess.run(argv, env=environment, cwd=ROOT, check=False, text=True, capture_output=True)
    assert done.returncode == on_node.EXIT_PREFLIGHT, done.stderr
    assert "launch folder: found" in done.stdout
    assert "preflight.json could not be written" in done.stdout


def test_too_few_inodes_are_found(tmp_path):
    with small_file_system(tmp_path / "few", "size=1m,nr_inodes=20") as folder:
        space, inodes = room("job's folder", folder, 0.0001)
        assert (space.passed, inodes.passed) == (True, False)
        assert inodes.found == f"19 free inodes at {folder}"


def test_a_file_system_that_does_not_count_inodes_is_not_full(tmp_path):
    with small_file_system(tmp_path / "uncounted", "size=1m,nr_inodes=0") as folder:
        _, inodes = room("job's folder", folder, 0)
        assert inodes.passed
        assert "without a count" in inodes.found


def test_a_read_only_folder_and_a_missing_one_are_named(tmp_path):
    with small_file_system(tmp_path / "read-only", "size=1m,ro") as folder:
        assert f"{folder} (Read-only file system)" in writable("folder of the log", folder).found
    assert "No such file or directory" in writable("launch folder", tmp_path / "missing").found


def test_a_job_that_was_started_elsewhere_is_stopped(node):
    launch = node.submission("a-job", Needs())
    places = {"TRACEBED_LAUNCH": str(launch), "TRACEBED_SUBMISSION_DIR": str(launch.parents[1])}
    environment = node.environment(**places, PYTHONPATH=f"{ROOT}:{node.modules}", TRACEBED_ROOT=str(ROOT))
    argv = [sys.executable, "-m", "workloads.on_node", "slot_probe"]
    assert subprocess.run(argv, env=environment, cwd="/tmp", check=False).returncode == on_node.EXIT_PREFLIGHT
    assert "working directory /tmp and code from" in (launch / "error").read_text()


def test_a_module_is_found_without_importing_what_it_lies_in(tmp_path, monkeypatch):
    inner = tmp_path / "explosive" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "explosive" / "__init__.py").write_text("raise RuntimeError('imported')")
    (inner / "__init__.py").write_text("raise RuntimeError('imported')")
    (inner / "work.py").touch()
    (tmp_path / "no_init" / "deeper").mkdir(parents=True)
    (tmp_path / "no_init" / "deeper" / "work.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert module_is_there("explosive.inner.work").passed
    assert module_is_there("workloads.train_bc_rnn").passed
    assert packages_are_there(("no_init.deeper", "numpy")).passed
    for missing in ("explosive.inner.rest", "explosive.none.work", "nothing_at_all.work", "explosive.inner.work.more"):
        assert not module_is_there(missing).passed, missing
    assert "explosive" not in sys.modules


# --- training intent -------------------------------------------------------------------------------------------------


@pytest.fixture
def training(node):
    """A training that is about to be launched for the first time; called with what its attempt says."""
    folder = node.folder / "attempt"
    folder.mkdir()
    launch = node.submission("training", Needs())

    def of(**attempt) -> Job:
        attempt = {"directory": str(folder), "resume_from": None, "first_step": 0} | attempt
        write_text(launch.parents[2] / "context.json", json.dumps({"extras": {"params": {"attempt": attempt}}}))
        return Job.read("slot_probe", launch, launch.parents[1])

    return of


def test_a_fresh_training_begins_only_where_nothing_is(training, node):
    (check,) = training_intent(training(intent="fresh"))
    assert check.passed
    (node.folder / "attempt" / "step-200.pth").write_bytes(b"weights")
    (check,) = training_intent(training(intent="fresh"))
    assert not check.passed
    assert check.found == f"step-200.pth in {node.folder / 'attempt'}"


def test_a_resume_needs_its_checkpoint_whole_and_of_its_step(training, node):
    older = node.folder / "older"
    older.mkdir()
    wanted, other = older / "step-200.pth", older / "step-100.pth"
    other.write_bytes(b"weights")
    (check,) = training_intent(training(intent="resume", resume_from=str(wanted), first_step=200))
    assert (check.passed, check.found) == (False, f"no file {wanted}; beside it step-100.pth")
    wanted.touch()
    (check,) = training_intent(training(intent="resume", resume_from=str(wanted), first_step=200))
    assert (check.passed, check.found) == (False, f"{wanted} with 0 bytes")
    (check,) = training_intent(training(intent="resume", resume_from=str(other), first_step=10))
    assert (check.passed, check.expected) == (False, "a checkpoint of step 10 that is not empty")
    wanted.write_bytes(b"weights")
    (check,) = training_intent(training(intent="resume", resume_from=str(wanted), first_step=200))
    assert check.passed


@pytest.mark.parametrize("earlier", ["1/launches/0", "2/launches/b"])
def test_a_later_launch_goes_on_from_what_the_first_one_left(training, node, earlier):
    (node.folder / "attempt" / "step-200.pth").write_bytes(b"weights")
    job = training(intent="fresh")
    (job.submission.parent / earlier).mkdir(parents=True)
    (check,) = training_intent(job)
    assert check.passed
    assert check.found == "an earlier launch of this job, and step-200.pth"


def test_an_attempt_whose_folder_the_node_does_not_see_is_not_begun(training):
    (check,) = training_intent(training(intent="fresh", directory="/no/such/folder"))
    assert (check.passed, check.found) == (False, "no folder /no/such/folder")


def test_jobs_that_train_nothing_have_no_intent(node):
    launch = node.submission("a-job", Needs())
    job = Job.read("slot_probe", launch, launch.parents[1])
    assert training_intent(job) == []
    write_text(launch.parents[2] / "context.json", json.dumps({"extras": {"params": {}}}))
    assert training_intent(job) == []
