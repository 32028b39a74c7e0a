"""The preflight of GPUs and of drawing: OpenGL is real; GPUs and CUDA builds of torch are stand-ins (none is here)."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from gpu_node import A100, CU126, CU128, P100, SECOND_A100, V100, Node, failed, run, wait_for
from hypothesis import given
from hypothesis import strategies as st

from home import ROOT
from resources.compute.interface import Needs
from science.robots.egl_devices import DEVICE_VARIABLE, EglDevice, device_of_gpu, egl_devices, render_worker_environment
from workloads import on_node, preflight_gpu
from workloads.preflight_gpu import has_code_for

MODULES = ("on_node", "preflight", "preflight_gpu", "gpu_slots")


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


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
