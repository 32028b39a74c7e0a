"""A node with GPUs that this machine has not, for tests of the preflight and of GPU slots."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from home import ROOT
from resources.compute.interface import JobSpec, Needs
from resources.compute.job_directory import write_text

# In the format in which nvidia-smi prints, composed and not captured (there is no GPU here): index, name, compute_cap,
# memory.free, memory.total (MiB), uuid.
P100 = "0, Tesla P100-PCIE-16GB, 6.0, 16270, 16384, GPU-1e0a91fc-3d5a-11e9-b210-d663bd873d93"
V100 = "0, Tesla V100-SXM2-32GB, 7.0, 32480, 32768, GPU-7a5f1c52-0a0b-4d55-8f2a-c5d1b3a3a0e7"
A100 = "0, NVIDIA A100-SXM4-80GB, 8.0, 80994, 81920, GPU-5d2f6b1e-90c4-4d7f-a6a8-1f0f6f1a9b02"
SECOND_A100 = "1, NVIDIA A100-SXM4-80GB, 8.0, 80994, 81920, GPU-c4b7f3aa-2b7e-4a53-8e7f-3f9be0d7a113"

_NVIDIA_SMI = """#!/bin/sh
folder=$(dirname "$0")
case "$1" in
--query-gpu=index,name,compute_cap,memory.free,memory.total)
    if [ -e "$folder/old" ]; then echo 'Field "compute_cap" is not a valid field to query.'; exit 2; fi
    cut -d, -f1-5 "$folder/gpus" ;;
--query-gpu=index,name,memory.free,memory.total) cut -d, -f1,2,4,5 "$folder/gpus" ;;
--query-gpu=index,uuid) cut -d, -f1,6 "$folder/gpus" ;;
--query-compute-apps=gpu_uuid,pid,process_name) cat "$folder/apps" ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""

# What torch says in builds that this machine has not: a CUDA build is 3 GB, and no GPU is here to ask it about.
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU128 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
_TORCH = """
from types import SimpleNamespace
__version__ = {version!r}
version = SimpleNamespace(cuda={cuda!r})
def _init():
    if {error!r}:
        raise RuntimeError({error!r})
_of = [SimpleNamespace(name=name, major=major, minor=minor, total_memory=16e9) for name, major, minor in {gpus!r}]
cuda = SimpleNamespace(
    init=_init,
    device_count=lambda: len(_of),
    get_device_properties=lambda index: _of[index],
    get_arch_list=lambda: [] if {error!r} else {architectures!r},
)
_C = SimpleNamespace(_cuda_getArchFlags=lambda: {flags!r})
"""

_PROBE = """
import json, os, pathlib, sys, time
here = pathlib.Path(os.environ["TRACEBED_LAUNCH"])
seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MUJOCO_EGL_DEVICE_ID")}
began = time.monotonic()
(here / ".ran").write_text(json.dumps({"pid": os.getpid(), "began": began, **seen}))
(here / ".ran").rename(here / "ran")
while "PROBE_WAITS" in os.environ and not (here / "go").exists():
    time.sleep(0.02)
time.sleep(0.2)
(here / "ended").write_text(repr(time.monotonic()))
"""


class Node:
    """A node with GPUs that this machine has not: nvidia-smi is a script that prints what the test says."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin, self.modules, self.locks = folder / "bin", folder / "modules", folder / "locks"
        for each in (self.bin, self.modules):
            each.mkdir()
        (self.bin / "nvidia-smi").write_text(_NVIDIA_SMI)
        (self.bin / "nvidia-smi").chmod(0o755)
        (self.modules / "slot_probe.py").write_text(_PROBE)
        self.has()
        self.has_torch(CU126)

    def has(self, *gpus: str, apps: str = "", old_driver: bool = False) -> None:
        write_text(self.bin / "gpus", "".join(f"{gpu}\n" for gpu in gpus))
        write_text(self.bin / "apps", apps)
        if old_driver:
            (self.bin / "old").touch()

    def has_torch(self, architectures: list[str], gpus=(), error: str = "", version: str = "2.7.1+cu126") -> None:
        """Put a torch there with CUDA and code for these architectures; ``error`` is why it cannot use a GPU."""
        told = {"architectures": architectures, "gpus": list(gpus), "error": error, "version": version}
        (self.modules / "torch.py").write_text(_TORCH.format(cuda="12.6", flags=" ".join(architectures), **told))

    def environment(self, **variables: str) -> dict[str, str]:
        hidden = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID", "MUJOCO_EGL_DEVICE_ID", "TRACEBED_ROOT")
        return {name: value for name, value in os.environ.items() if name not in hidden} | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.modules),
            "TRACEBED_GPU_LOCKS": str(self.locks),
            **({} if {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"} & set(variables) else {"TRACEBED_GPU_SLOTS": "1"}),
            **variables,
        }

    def submission(self, key: str, needs: Needs, module: str = "slot_probe") -> Path:
        """The folder of a first submission, with one launch; returns the launch folder."""
        directory = self.folder / key / "1"
        launch = directory / "launches" / "a"
        (launch / "artifacts").mkdir(parents=True)
        spec = asdict(JobSpec(key, directory, module, needs)) | {"directory": str(directory), "environment": []}
        write_text(directory / "spec.json", json.dumps(spec))
        return launch

    def start(self, launch: Path, module: str = "slot_probe", **variables: str) -> subprocess.Popen:
        places = {"TRACEBED_LAUNCH": str(launch), "TRACEBED_SUBMISSION_DIR": str(launch.parents[1])}
        with (launch.parents[1] / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workloads.on_node", module],
                env=self.environment(**places, **variables),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self, launch: Path) -> str:
        return (launch.parents[1] / "log").read_text()


def run(node: Node, needs: Needs, module: str = "slot_probe", key: str = "a-job", **variables: str):
    """Exit code, launch folder, and preflight.json of a job that ran through `on_node`."""
    launch = node.submission(key, needs, module)
    code = node.start(launch, module, **variables).wait(120)
    return code, launch, json.loads((launch / "preflight.json").read_text())


def failed(report) -> dict[str, dict]:
    return {check["name"]: check for check in report["checks"] if not check["passed"]}


def wait_for(condition, timeout_s: float = 60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)
    return found
