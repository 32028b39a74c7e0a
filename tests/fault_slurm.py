"""What fault tests on Slurm share: the evidence that Slurm itself keeps, wrapped commands, processes that submit."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.slurm import SlurmCluster
from fault_jobs import TESTS, Bench, until

from resources.compute.job_directory import JobDirectory
from resources.compute.sites import ROOT

TRIVIAL = {"default": "/bin/true"}
"""An environment whose `python` only succeeds: launch.sh and the exit file are real, the payload costs nothing."""


def jobs_named(cluster: SlurmCluster, *names: str, number: int = 1) -> Counter[str]:
    """How many jobs Slurm has had of each name, from squeue and, where there is one, sacct."""
    wanted = ",".join(f"{name}.{number}" for name in names)
    listed = cluster.run("squeue", "--noheader", "--states=all", f"--name={wanted}", "--format=%i|%j").stdout
    if cluster.accounting:
        options = ("--noheader", "--parsable2", "--allocations", "--starttime=now-1hour", "--format=JobIDRaw,JobName")
        listed += cluster.run("sacct", *options, f"--name={wanted}").stdout
    pairs = {tuple(line.split("|")) for line in listed.splitlines()}
    return Counter(name.rpartition(".")[0] for _, name in pairs)


def launches(bench: Bench, name: str) -> list[str]:
    """Names of all launches of a job, over its submissions."""
    job = JobDirectory(bench.jobs / name)
    return [launch.path.name for number in job.submissions() for launch in job.submission(number).launches()]


def accounted(cluster: SlurmCluster, job: str, field: str) -> str:
    """One field of a job's last row in sacct."""
    argv = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={field}")
    return cluster.run(*argv).stdout.strip()


def reference(bench: Bench, name: str, number: int = 1) -> str:
    """Slurm's id of a submission."""
    handle = JobDirectory(bench.jobs / name).submission(number).read_handle()
    assert handle is not None
    return handle["reference"]


def only(cluster: SlurmCluster, *nodes: str) -> None:
    """Let jobs begin on these nodes only; what runs elsewhere goes on."""
    for name in cluster.nodes:
        state = "RESUME" if name in nodes else "DRAIN"
        drained = "DRAIN" in cluster.node_state(name)
        if drained == (state == "RESUME"):
            cluster.run("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")
    until(
        lambda: all(("DRAIN" in cluster.node_state(name)) != (name in nodes) for name in cluster.nodes), 20, "drained"
    )


def wrapper(folder: Path, name: str, body: str) -> str:
    """A shell script of a command's name, so that it is taken for it; `$real` is the command."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{body}\n")
    path.chmod(0o755)
    return str(path)


def submitter(
    bench: Bench, *arguments: str, behaviour: Sequence[Any] = ("exit", 0), **variables: str
) -> subprocess.Popen[str]:
    """`fault_submitter.py` for the site and folder of a bench, as a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "FAULT_BEHAVIOUR": json.dumps(list(behaviour)),
        **variables,
    }
    argv = [sys.executable, f"{TESTS}/fault_submitter.py", str(bench.jobs.parent), bench.site.model_dump_json()]
    return subprocess.Popen(
        [*argv, *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


def output(process: subprocess.Popen[str], seconds: float = 120.0) -> str:
    """What a submitter printed; its errors are the test's."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out
