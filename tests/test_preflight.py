"""The preflight: real folders, file systems, interpreters and OpenGL; GPUs and CUDA builds of torch are recorded."""

import ast
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gpu_slots import A100, CU126, CU128, P100, SECOND_A100, V100, Node, wait_for

from home import ROOT
from resources.compute import endings
from resources.compute.interface import Ending, JobSpec, Needs, State
from resources.compute.job_directory import SubmissionDirectory, write_text
from science.robots.egl_devices import DEVICE_VARIABLE, EglDevice, device_of_gpu, egl_devices, render_worker_environment
from workloads import on_node, preflight, preflight_gpu
from workloads.preflight import Job, module_is_there, packages_are_there, room, training_intent, writable
from workloads.preflight_gpu import has_code_for

MODULES = ("on_node", "preflight", "preflight_gpu", "gpu_slots")


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


def run(node: Node, needs: Needs, module: str = "slot_probe", key: str = "a-job", **variables: str):
    """Exit code, launch folder, and preflight.json of a job that ran through `on_node`."""
    launch = node.submission(key, needs, module)
    code = node.start(launch, module, **variables).wait(120)
    return code, launch, json.loads((launch / "preflight.json").read_text())


def failed(report) -> dict[str, dict]:
    return {check["name"]: check for check in report["checks"] if not check["passed"]}


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


# --- GPU architecture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "architectures", "runs"),
    [
        ((6, 0), CU126, True),
        ((6, 1), CU126, True),
        ((6, 0), CU128, False),
        ((7, 0), CU126, True),
        ((7, 0), CU128, False),
        ((8, 0), CU128, True),
        ((8, 9), CU128, True),
        ((12, 1), CU126, False),
        ((13, 0), CU128, True),  # from the PTX of compute_120
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 0), ["compute_90a"], False),
        ((9, 0), ["gfx90a"], False),
        ((9, 0), [], False),
    ],
)
def test_a_build_runs_where_it_has_machine_code_or_ptx(gpu, architectures, runs):
    assert has_code_for(gpu, architectures) == runs


capabilities = st.tuples(st.integers(3, 13), st.integers(0, 9))
builds = st.builds(
    lambda kind, capability, suffix: f"{kind}_{capability[0]}{capability[1]}{suffix}",
    st.sampled_from(["sm", "compute"]),
    capabilities,
    st.sampled_from(["", "", "a"]),
)


@given(capabilities, st.lists(builds), st.lists(builds))
def test_a_build_with_more_code_runs_wherever_one_with_less_does(gpu, fewer, more):
    assert has_code_for(gpu, fewer + more) == (has_code_for(gpu, fewer) or has_code_for(gpu, more))


@given(capabilities, capabilities)
def test_code_for_a_newer_gpu_never_runs_on_an_older_one(one, other):
    older, newer = sorted((one, other))
    digits = f"{newer[0]}{newer[1]}"
    assert has_code_for(newer, [f"sm_{digits}"]) and has_code_for(newer, [f"sm_{digits}a"])
    assert has_code_for(older, [f"sm_{digits}", f"compute_{digits}"]) == (older == newer)
    assert has_code_for(older, [f"sm_{digits}a", f"compute_{digits}a"]) == (older == newer)


@given(capabilities, capabilities)
def test_machine_code_stays_within_its_major_and_ptx_goes_on(one, other):
    older, newer = sorted((one, other))
    digits = f"{older[0]}{older[1]}"
    assert has_code_for(newer, [f"compute_{digits}"])
    assert has_code_for(newer, [f"sm_{digits}"]) == (older[0] == newer[0])


# --- GPUs of a node --------------------------------------------------------------------------------------------------


def test_a_gpu_for_which_torch_has_no_code_ends_as_cuda_arch_with_both_named(node):
    node.has(P100)
    node.has_torch(CU128, version="2.8.0+cu128")
    code, _, report = run(node, Needs(gpus=1, packages=("torch",)))
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "CUDA_ARCH")
    assert "Tesla P100-PCIE-16GB is sm_60; torch 2.8.0+cu128 there was built for sm_75, sm_80, " in report["sentence"]


def test_the_most_specific_ending_wins_and_the_sentence_has_all(node):
    node.has(V100)
    node.has_torch(CU128)
    code, _, report = run(node, Needs(gpus=1, packages=("torch", "no_such_package")))
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "CUDA_ARCH")
    assert "sm_70" in report["sentence"] and "no_such_package" in report["sentence"]


def test_a_torch_with_code_for_the_gpu_runs_there(node):
    node.has(P100)
    code, _, report = run(node, Needs(gpus=1, packages=("torch",)))
    assert (code, report["ending"]) == (0, None)


def test_the_capability_is_asked_of_torch_where_the_driver_is_too_old(node):
    node.has(P100, old_driver=True)
    node.has_torch(CU128, gpus=[("Tesla P100-PCIE-16GB", 6, 0)])
    _, _, report = run(node, Needs(gpus=1, packages=("torch",)))
    assert report["ending"] == "CUDA_ARCH"


def test_a_torch_without_cuda_is_named_where_the_job_needs_torch(node):
    """With the CPU build that is installed here."""
    torch_version = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.version.cuda)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if torch_version != "None":
        pytest.skip("the torch that is installed here has CUDA")
    (node.modules / "torch.py").unlink()
    node.has(A100)
    code, _, report = run(node, Needs(gpus=1, packages=("torch",)))
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "LAUNCH_ERROR")
    assert "a build without CUDA" in failed(report)["torch"]["found"]
    code, _, report = run(node, Needs(gpus=1, packages=("numpy",)), key="without")
    assert code == 0


def test_a_driver_too_old_for_torch_is_told_from_a_build_without_cuda(node):
    node.has(A100)
    node.has_torch(CU126, error="The NVIDIA driver on your system is too old (found version 11040).")
    code, _, report = run(node, Needs(gpus=1, packages=("torch",)))
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "LAUNCH_ERROR")
    assert "cannot use a GPU here (The NVIDIA driver on your system is too old" in failed(report)["torch"]["found"]


def test_a_node_with_too_few_gpus_is_named_and_not_waited_for(node):
    node.has(A100)
    code, launch, report = run(node, Needs(gpus=2))
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "LAUNCH_ERROR")
    assert (failed(report)["GPUs"]["found"], failed(report)["GPUs"]["expected"]) == ("1 GPU", "2 GPUs")
    assert "found 1 GPU, expected 2 GPUs" in (launch / "error").read_text()


def test_no_gpu_is_waited_for_where_something_else_is_wrong(node):
    node.has(A100)
    holder = node.submission("holder", Needs(gpus=1))
    process = node.start(holder, PROBE_WAITS="1")
    wait_for((holder / "ran").exists)
    code, launch, report = run(node, Needs(gpus=1, packages=("no_such_package",)))
    (holder / "go").touch()
    assert process.wait(60) == 0
    assert code == on_node.EXIT_PREFLIGHT
    assert set(failed(report)) == {"packages"}
    assert "waiting" not in node.log(launch)


def test_gpus_that_a_scheduler_gave_are_used_without_a_lock(node):
    node.has(A100, SECOND_A100)
    code, launch, _ = run(node, Needs(gpus=1), CUDA_VISIBLE_DEVICES="1", SLURM_JOB_ID="7")
    assert code == 0
    assert json.loads((launch / "ran").read_text())["CUDA_VISIBLE_DEVICES"] == "1"
    assert not node.locks.exists()


def test_where_gpus_are_handed_out_by_lock_only_those_are_taken_that_the_starter_may_use(node):
    node.has(A100, SECOND_A100)
    code, launch, _ = run(node, Needs(gpus=1), CUDA_VISIBLE_DEVICES="1", TRACEBED_GPU_SLOTS="1")
    assert code == 0
    assert json.loads((launch / "ran").read_text())["CUDA_VISIBLE_DEVICES"] == "1"
    assert node.locks.exists()


@pytest.mark.parametrize("shown", ["", "1,-1,0", "GPU-c4b7", "7"])
def test_fewer_visible_gpus_than_wanted_are_found(node, shown):
    node.has(A100, SECOND_A100)
    code, _, report = run(node, Needs(gpus=2), CUDA_VISIBLE_DEVICES=shown)
    assert code == on_node.EXIT_PREFLIGHT
    assert "visible GPUs" in failed(report)


def test_slices_of_a_gpu_are_asked_of_torch(node):
    node.has(A100)
    node.has_torch(CU126, gpus=[("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 8, 0)])
    code, _, report = run(node, Needs(gpus=1), CUDA_VISIBLE_DEVICES="MIG-2e1c1b6a")
    assert code == 0, report["sentence"]


def test_a_gpu_with_too_little_free_memory_is_found(node):
    node.has(A100.replace("80994", "1024"))
    code, _, report = run(node, Needs(gpus=1, gpu_memory_gb=8))
    assert code == on_node.EXIT_PREFLIGHT
    assert failed(report)["GPU memory"]["found"] == "GPU 0 with 1.1 GB free of 85.9 GB"


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_the_renderer_is_recorded(node, gl):
    code, launch, report = run(node, Needs(draws=True), TRACEBED_GL=gl.backend)
    assert code == 0
    (drawing,) = [check for check in report["checks"] if check["name"] == "drawing"]
    assert gl.renderer in drawing["found"]
    assert json.loads((launch / "ran").read_text())["MUJOCO_EGL_DEVICE_ID"] is None


def test_software_that_draws_where_a_gpu_was_wanted_is_a_failed_check(node, gl):
    if gl.backend != "egl" or "llvmpipe" not in gl.renderer:
        pytest.skip(f"{gl.renderer} draws here, expected llvmpipe through EGL")
    node.has(A100)
    code, _, report = run(node, Needs(gpus=1, draws=True), TRACEBED_GL="egl")
    assert (code, report["ending"]) == (on_node.EXIT_PREFLIGHT, "LAUNCH_ERROR")
    assert set(failed(report)) == {"EGL device", "drawing"}
    assert "the job has GPU 0" in failed(report)["EGL device"]["found"]
    assert "llvmpipe" in failed(report)["drawing"]["found"]


def test_osmesa_beside_a_gpu_is_right_where_it_is_asked_for_by_name(node, egl_and_osmesa):
    node.has(A100)
    code, _, report = run(node, Needs(gpus=1, draws=True), TRACEBED_GL="osmesa")
    assert code == 0, report["sentence"]


def test_egl_lists_its_devices_here(gl):
    if gl.backend != "egl":
        pytest.skip("EGL does not draw here")
    devices = egl_devices()
    assert [device.index for device in devices] == list(range(len(devices)))


def test_the_egl_device_is_found_by_its_gpu_and_not_by_its_place():
    devices = [EglDevice(0, 1, ""), EglDevice(1, None, "software"), EglDevice(2, 0, "")]
    assert [device_of_gpu(devices, gpu) for gpu in (0, 1, 2)] == [2, 0, None]


def test_render_workers_start_without_cuda_visible_devices():
    assert render_worker_environment({"CUDA_VISIBLE_DEVICES": "1", DEVICE_VARIABLE: "0"}) == {DEVICE_VARIABLE: "0"}


# A libEGL for two GPUs in the other order than CUDA's, and a software device: no such machine is at hand.
_EGL_C = """
#include <string.h>
static int handles[3]; static long cuda[3] = {1, -1, 0};
static unsigned query(int max, void **out, int *n) {
    for (int i = 0; out && i < 3; i++) out[i] = &handles[i];
    *n = 3; return 1;
}
static unsigned attribute(void *device, int name, long *value) {
    long at = (int *)device - handles;
    if (name != 0x323A || cuda[at] < 0) return 0;
    *value = cuda[at]; return 1;
}
static const char *text(void *device, int name) { return name == 0x3055 ? "EGL_TEST" : 0; }
void *eglGetProcAddress(const char *name) {
    if (!strcmp(name, "eglQueryDevicesEXT")) return query;
    if (!strcmp(name, "eglQueryDeviceAttribEXT")) return attribute;
    return strcmp(name, "eglQueryDeviceStringEXT") ? 0 : (void *)text;
}
"""


@pytest.mark.parametrize(("shown", "device"), [("0", "2"), ("1", "0"), ("1,0", "0"), ("GPU-c4b7", "0")])
def test_the_workload_is_told_the_egl_device_of_its_first_gpu(node, monkeypatch, shown, device):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    library = node.folder / "libEGL.so.1"
    compiled = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(compiled, input=_EGL_C, text=True, check=True)
    node.has(A100, SECOND_A100)
    for name, value in node.environment(LD_LIBRARY_PATH=str(node.folder), CUDA_VISIBLE_DEVICES=shown).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(DEVICE_VARIABLE, "unset by the test's end")
    monkeypatch.chdir(ROOT)
    check = preflight_gpu._choose_egl_device()
    assert check.passed, check.found
    assert os.environ[DEVICE_VARIABLE] == device
    assert ("robosuite" in check.found) == (device not in shown)
