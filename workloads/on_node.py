"""The first thing of a job on its node: `python -m workloads.on_node MODULE` looks, then becomes the workload.

It takes GPU slots where no scheduler gives GPUs, runs the preflight, and leaves `preflight.json` in the launch folder.
When a check fails, the job ends with `EXIT_PREFLIGHT` before any work; otherwise this process executes the workload.
It starts with the standard library alone and runs on older Pythons too, so that it can say what is wrong with one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.preflight import Check, Job

EXIT_PREFLIGHT = 95  # as in resources.compute.endings, which an older Python cannot import


def main(module: str) -> None:
    """Check the node for a module and run it there."""
    from workloads.preflight import Job, sentence, write_report

    launch = Path(os.environ["TRACEBED_LAUNCH"])
    job = Job.read(module, launch, Path(os.environ["TRACEBED_SUBMISSION_DIR"]))
    checks = _check(job)
    problem = sentence(checks)
    write_report(launch, checks)
    if not problem:
        sys.stdout.flush()
        (launch / "working").touch()  # from now on a time limit counts that launch.sh keeps
        os.execv(sys.executable, [sys.executable, "-m", module])
    for check in checks:
        if not check.passed:
            _say(check.sentence())
    _leave(launch / "error", f"preflight: {problem}")
    sys.exit(EXIT_PREFLIGHT)


def _check(job: Job) -> list[Check]:
    """Every check that the job's needs ask for; no GPU is waited for where something else is wrong already."""
    from workloads.preflight import interpreter, plain_checks

    if not interpreter().passed:
        return [interpreter()]
    checks = plain_checks(job)
    gpus = job.need("gpus", 0)
    scheduled = "TRACEBED_GPU_SLOTS" not in os.environ  # where the site says that GPUs are handed out by lock
    owned = scheduled
    if gpus and not scheduled and all(check.passed for check in checks):
        taken = _take_gpus(job, gpus)
        checks.append(taken)
        if not taken.passed:
            return checks
        owned = True
    if gpus:
        from workloads.preflight_gpu import gpu_checks

        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts; CUDA's default is by speed
        checks += gpu_checks(job, owned)
    if job.need("draws", False) and (owned or not gpus):
        from workloads.preflight_gpu import drawing_checks

        checks += drawing_checks(job)
    return checks


def _take_gpus(job: Job, wanted: int) -> Check:
    """Hold GPUs until the workload has ended, and show it only these."""
    from workloads.gpu_slots import LOCKS_VARIABLE, GpuQueryFailed, TooFewGpus, number_of_gpus, take_gpus
    from workloads.preflight import Check

    expected = number_of_gpus(wanted)
    try:
        slots = take_gpus(wanted, job.key, _say)
    except TooFewGpus as too_few:
        return Check("GPUs", False, str(too_few), expected, "ask for fewer, or choose another node or site")
    except GpuQueryFailed as failed:
        advice = "choose a node with GPUs, or put its nvidia-smi on PATH (`environments` of the site, or the container)"
        return Check("GPUs", False, str(failed), expected, advice)
    except OSError as error:
        advice = f"let every user write there (mode 1777, files 0666), or set {LOCKS_VARIABLE} to a local folder"
        return Check("GPUs", False, f"lock files that cannot be used ({error})", "locks on the node's disk", advice)
    os.environ["CUDA_VISIBLE_DEVICES"] = shown = ",".join(map(str, slots.indices))
    _say(f"GPU {shown} of this node is held for this job")
    return Check("GPUs", True, f"GPU {shown} is held by lock", expected)


def _say(line: str) -> None:
    print(f"tracebed: {line}", flush=True)


def _leave(path: Path, text: str) -> None:
    """Write a last word; where even that is impossible, the log has it."""
    try:
        path.write_text(text)
    except OSError as error:
        _say(f"{path} could not be written: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"found {len(sys.argv) - 1} arguments, expected one: python -m workloads.on_node MODULE")
    main(sys.argv[1])
