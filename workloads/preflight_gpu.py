"""What a job that uses GPUs or draws needs of its node: GPUs, code for their architecture, memory, and OpenGL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from science.robots.egl_devices import DEVICE_VARIABLE, EglDevice, device_of_gpu, render_worker_environment
from workloads.gpu_slots import Gpu, GpuQueryFailed, gpu_uuids, node_gpus, number_of_gpus
from workloads.preflight import CUDA_ARCH, Check, Job, packages_are_there

_PROBE_S = 300.0
_GL_VARIABLE = "TRACEBED_GL"
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software rasterizer")
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")

_ASK_TORCH = """
import json, torch
told = {"version": torch.__version__, "cuda": torch.version.cuda, "architectures": [], "error": "", "gpus": []}
if torch.version.cuda:
    flags = getattr(torch._C, "_cuda_getArchFlags", str)() or ""  # get_arch_list() is empty where no GPU can be used
    told["architectures"] = torch.cuda.get_arch_list() or flags.split()
    try:
        torch.cuda.init()
        for index in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(index)
            told["gpus"].append([of.name, [of.major, of.minor], of.total_memory / 1e9])
    except (RuntimeError, AssertionError) as error:
        told["error"] = str(error).splitlines()[0]
print(json.dumps(told))
"""
_ASK_GL = """
import json
from science.robots.rendering import RenderingError, choose_gl
try:
    gl = choose_gl()
    print(json.dumps({"backend": gl.backend, "renderer": gl.renderer, "why": gl.why}))
except RenderingError as error:
    print(json.dumps({"error": str(error)}))
"""


class ProbeFailed(RuntimeError):
    """A question to a library, asked in a process of its own, that was not answered."""


def gpu_checks(job: Job, owned: bool) -> list[Check]:
    """GPUs, their architecture and memory; ``owned``: what is visible is this job's, so its free memory counts."""
    torch = _torch(job)
    try:
        gpus = _visible_gpus(torch)
    except GpuQueryFailed as failed:
        advice = "choose a node with GPUs and a driver that works, or ask for GPUs in `gpu_request` of the site"
        return [Check("visible GPUs", False, str(failed), number_of_gpus(job.need("gpus", 0)), advice)]
    checks = [enough_gpus(gpus, job.need("gpus", 0))]
    if isinstance(torch, Check):
        checks.append(torch)
    elif torch is not None:
        checks.append(architecture(gpus, torch, "torch" in job.need("packages", ())))
    if owned and job.need("gpu_memory_gb", 0.0):
        checks.append(gpu_memory(gpus, job.need("gpus", 0), job.need("gpu_memory_gb", 0.0)))
    return checks


def enough_gpus(gpus: list[Gpu], wanted: int) -> Check:
    """Whether as many GPUs are visible as the job wants."""
    return Check(
        "visible GPUs",
        len(gpus) >= wanted,
        _named(gpus) or f"none (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r})",
        number_of_gpus(wanted),
        "ask for fewer, choose another node, or see `gpu_request` of the site",
    )


def architecture(gpus: list[Gpu], torch: Mapping[str, Any], torch_is_needed: bool) -> Check:
    """Whether torch there has code for every GPU. A torch that the job does not name may be a build without CUDA."""
    name, built_for = f"torch {torch['version']}", torch["architectures"]
    if torch["cuda"] is None:
        found, expected = f"{name}, a build without CUDA", "a torch build with CUDA, where the job names torch"
        return Check("torch", not torch_is_needed, found, expected, f"install a CUDA build of torch into {sys.prefix}")
    foreign = [gpu for gpu in gpus if gpu.capability and built_for and not has_code_for(gpu.capability, built_for)]
    if foreign:
        told = ", ".join(f"{gpu.name} is {_sm(gpu)}" for gpu in foreign)
        return Check(
            "GPU architecture",
            False,
            f"{told}; {name} there was built for {', '.join(built_for)}",
            f"a torch build with code for {', '.join(sorted({_sm(gpu) for gpu in foreign}))}",
            "install a torch build that has it, or choose another node",
            CUDA_ARCH,
        )
    if torch["error"] or not built_for:
        why = torch["error"] or "it names no architecture"
        found = f"{name} with CUDA {torch['cuda']}, which cannot use a GPU here ({why})"
        advice = "install a torch build for the driver's CUDA (nvidia-smi names it), or choose another node"
        return Check("torch", not torch_is_needed, found, "a torch that sees the GPUs, where the job names it", advice)
    return Check("GPU architecture", True, f"{_named(gpus)}; {name} has {', '.join(built_for)}", "code for each GPU")


def has_code_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build has code for a GPU of a compute capability.

    ``sm_XY`` is machine code: for the same major and the same or a later minor. ``compute_XY`` is PTX: for all later
    ones. A suffix (``sm_90a``) binds to exactly that GPU.
    """
    major, minor = capability
    for text in architectures:
        if (match := _ARCHITECTURE.fullmatch(text)) is None:
            continue  # not an architecture of NVIDIA
        kind, built = match[1], (int(match[2]), int(match[3]))
        if match[4]:
            fits = built == capability
        elif kind == "sm":
            fits = built[0] == major and built[1] <= minor
        else:
            fits = built <= capability
        if fits:
            return True
    return False


def gpu_memory(gpus: list[Gpu], wanted: int, memory_gb: float) -> Check:
    """Whether as many GPUs as the job wants have the free memory that it needs."""
    large_enough = [gpu for gpu in gpus if gpu.free_gb is None or gpu.free_gb >= memory_gb]
    told = [
        f"GPU {gpu.index} with "
        + ("unknown memory" if gpu.free_gb is None else f"{gpu.free_gb:.1f} GB free")
        + ("" if gpu.total_gb is None else f" of {gpu.total_gb:.1f} GB")
        for gpu in gpus
    ]
    advice = "choose a node with larger GPUs, or see with nvidia-smi who computes on them"
    expected = f"{memory_gb:g} GB free on {wanted} of them"
    return Check("GPU memory", len(large_enough) >= wanted, ", ".join(told) or "no GPU", expected, advice)


def drawing_checks(job: Job) -> list[Check]:
    """Choose the EGL device of the job's GPU, if it has one, and draw a frame there."""
    checks = []
    gpus = job.need("gpus", 0)
    if gpus and not _osmesa_is_asked_for():
        checks.append(_choose_egl_device())
    checks.append(_draws_a_frame(bool(gpus)))
    return checks


def _choose_egl_device() -> Check:
    """Hand the EGL device of the first visible GPU on as ``$MUJOCO_EGL_DEVICE_ID``."""
    advice = "install NVIDIA's EGL (libEGL_nvidia and its file in glvnd/egl_vendor.d) where the job runs"
    expected = "an EGL device on the job's GPU"
    try:
        gpu = _first_gpu()
        asked = _ask(["-m", "science.robots.egl_devices"], "EGL devices")
    except (ProbeFailed, GpuQueryFailed) as failed:
        return Check("EGL device", False, str(failed), expected, advice)
    devices = [EglDevice(**each) for each in asked]
    chosen = device_of_gpu(devices, gpu)
    if chosen is None:
        told = ", ".join(f"{each.index} (GPU {each.cuda})" for each in devices if each.cuda is not None)
        found = f"{len(devices)} EGL devices, of GPUs: {told or 'none'}; the job has GPU {gpu}"
        return Check("EGL device", False, found, expected, advice)
    os.environ[DEVICE_VARIABLE] = str(chosen)
    found = f"EGL device {chosen} is GPU {gpu}; {DEVICE_VARIABLE}={chosen}"
    if str(chosen) not in os.environ.get("CUDA_VISIBLE_DEVICES", str(chosen)):
        found += ", so robosuite can be imported only in render workers that have no CUDA_VISIBLE_DEVICES"
    return Check("EGL device", True, found, expected)


def _draws_a_frame(on_gpu: bool) -> Check:
    expected = "a frame drawn by a GPU" if on_gpu else "a frame"
    try:
        told = _ask(["-c", _ASK_GL], "OpenGL")
    except ProbeFailed as failed:
        return Check("drawing", False, str(failed), expected, "mend OpenGL of this environment")
    if "error" in told:
        return Check("drawing", False, told["error"], expected, f"or choose another OpenGL with {_GL_VARIABLE}")
    found = f"{told['renderer']} through {told['backend']} ({told['why']})"
    software = any(name in told["renderer"].lower() for name in _SOFTWARE)
    passed = not (on_gpu and software) or _osmesa_is_asked_for()
    advice = f"software draws many times slower: install NVIDIA's EGL, or say {_GL_VARIABLE}=osmesa if that is wanted"
    return Check("drawing", passed, found, expected, advice)


def _osmesa_is_asked_for() -> bool:
    return os.environ.get(_GL_VARIABLE, "").strip().lower() == "osmesa"


def _torch(job: Job) -> Mapping[str, Any] | Check | None:
    """What torch says of itself and the GPUs; a failed check where it cannot be asked; None where it is not there."""
    if not packages_are_there(("torch",)).passed:
        return None  # if the job names it, the check of packages has failed
    try:
        return _ask(["-c", _ASK_TORCH], "torch", dict(os.environ))
    except ProbeFailed as failed:
        needed = "torch" in job.need("packages", ())
        return Check("torch", not needed, str(failed), "a torch that can be imported", "mend torch of this environment")


def _visible_gpus(torch: Mapping[str, Any] | Check | None) -> list[Gpu]:
    """The GPUs that CUDA shows to this job: by nvidia-smi, and by torch where that cannot say."""
    by_torch = (
        [
            Gpu(index, name, (major, minor), None, total_gb)
            for index, (name, (major, minor), total_gb) in enumerate(torch["gpus"])
        ]
        if isinstance(torch, Mapping)
        else []
    )
    try:
        gpus = _shown(node_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    except GpuQueryFailed:
        if not by_torch:
            raise
        return by_torch
    if all(gpu.capability for gpu in gpus) or len(by_torch) != len(gpus):
        return gpus
    return [
        Gpu(gpu.index, gpu.name, same.capability, gpu.free_gb, gpu.total_gb)
        for gpu, same in zip(gpus, by_torch, strict=True)
    ]


def _shown(gpus: list[Gpu], variable: str | None) -> list[Gpu]:
    """Those that ``$CUDA_VISIBLE_DEVICES`` names, in its order; as CUDA does, the first unknown name ends the list."""
    if variable is None:
        return gpus
    by_index = {gpu.index: gpu for gpu in gpus}
    names = [name.strip() for name in variable.split(",") if name.strip()]
    if any(name.startswith("MIG") for name in names):
        raise GpuQueryFailed(f"CUDA_VISIBLE_DEVICES={variable} names slices of GPUs, which nvidia-smi does not list")
    shown = []
    for name in names:
        index = _index(name)
        if index not in by_index:
            break
        shown.append(by_index[index])
    return shown


def _index(name: str) -> int | None:
    """The index of a GPU that is named by index or by the beginning of its UUID."""
    if name.isdigit():
        return int(name)
    if not name.startswith("GPU-"):
        return None
    return next((index for uuid, index in gpu_uuids().items() if uuid.startswith(name)), None)


def _first_gpu() -> int:
    shown = _shown(node_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not shown:
        raise GpuQueryFailed("no visible GPU")
    return shown[0].index


def _ask(arguments: list[str], what: str, environment: dict[str, str] | None = None) -> Any:
    """The answer of a small program, as JSON; by default it starts as a render worker does."""
    environment = environment if environment is not None else render_worker_environment(os.environ)
    argv = [sys.executable, *arguments]
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_PROBE_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise ProbeFailed(f"{what} did not answer within {_PROBE_S:.0f} s") from late
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ProbeFailed(f"{what} could not be asked: exit code {done.returncode}, {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _named(gpus: list[Gpu]) -> str:
    return ", ".join(f"GPU {gpu.index} {gpu.name}" + (f" ({_sm(gpu)})" if gpu.capability else "") for gpu in gpus)


def _sm(gpu: Gpu) -> str:
    assert gpu.capability is not None
    return f"sm_{gpu.capability[0]}{gpu.capability[1]}"
