"""What must hold on the node before a job's work begins; each check is a small function that says what it found.

Which ones run depends on what the job needs. Here is what every job needs; `preflight_gpu.py` has GPUs and drawing.
Nothing here imports more than the standard library, and nothing needs Python 3.11: an older one must be named, too.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUDA_ARCH, LAUNCH_ERROR = "CUDA_ARCH", "LAUNCH_ERROR"
_SPECIFIC_FIRST = (CUDA_ARCH, LAUNCH_ERROR)
_PYTHON = (3, 11)
_MIN_INODES = 1000


@dataclass(frozen=True)
class Check:
    """What one check found. ``ending`` is how the job ends where it fails: the name of an `Ending`."""

    name: str
    passed: bool
    found: str
    expected: str
    advice: str = ""
    ending: str = LAUNCH_ERROR

    def sentence(self) -> str:
        """In words."""
        return f"{self.name}: found {self.found}, expected {self.expected}" + (
            f"; {self.advice}" if self.advice else ""
        )


@dataclass(frozen=True)
class Job:
    """A job that is about to run here: its module, its folders, and its `JobSpec` as plain values."""

    module: str
    launch: Path
    submission: Path
    spec: Mapping[str, Any]

    @classmethod
    def read(cls, module: str, launch: Path, submission: Path) -> Job:
        """The job of a submission folder."""
        return cls(module, launch, submission, json.loads((submission / "spec.json").read_text()))

    @property
    def key(self) -> str:
        """The key of the submission."""
        return str(self.spec["key"])

    def need(self, name: str, otherwise: Any) -> Any:
        """One of `Needs`."""
        return self.spec.get("needs", {}).get(name, otherwise)


def sentence(checks: list[Check]) -> str:
    """All failed checks in one sentence; empty where none failed."""
    failed = [check.sentence() for check in checks if not check.passed]
    return f"on {platform.node()}: {'. '.join(failed)}" if failed else ""


def write_report(launch: Path, checks: list[Check]) -> None:
    """Leave `preflight.json` in the launch folder, by rename; where that is impossible, the log says so."""
    failed = {check.ending for check in checks if not check.passed}
    fields = ("name", "passed", "found", "expected", "advice")
    report = {
        "ending": next((ending for ending in _SPECIFIC_FIRST if ending in failed), None),
        "sentence": sentence(checks),
        "node": platform.node(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "checks": [{field: getattr(check, field) for field in fields} for check in checks],
    }
    draft = launch / ".preflight.json"
    try:
        draft.write_text(json.dumps(report, indent=1))
        draft.replace(launch / "preflight.json")
    except OSError as error:
        print(f"tracebed: {launch / 'preflight.json'} could not be written: {error}", flush=True)


def plain_checks(job: Job) -> list[Check]:
    """What every job needs, in the order in which it is needed."""
    disk_gb = float(job.need("disk_gb", 0.0))
    return [
        writable("launch folder", job.launch),
        writable("folder of the log", job.submission),
        working_directory(),
        *room("job's folder", job.launch, disk_gb),
        *_temporary_room(disk_gb),
        interpreter(),
        module_is_there(job.module),
        packages_are_there(tuple(job.need("packages", ()))),
        *training_intent(job),
    ]


def writable(name: str, folder: Path) -> Check:
    """Whether a file can be written, synced and deleted there."""
    probe = folder / f".preflight.{os.getpid()}"
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(4096))
            stream.flush()
            os.fsync(stream.fileno())
        probe.unlink()
    except OSError as error:
        advice = "free space there, or mend its owner, mode or mount on this node"
        return Check(name, False, f"{folder} ({error.strerror})", "a folder that can be written", advice)
    return Check(name, True, f"{folder} can be written", "a folder that can be written")


def working_directory() -> Check:
    """Whether this runs in the folder of the code. A scheduler may start a job in /tmp where the folder is missing."""
    root = Path(os.environ.get("TRACEBED_ROOT") or Path(__file__).parents[1]).resolve()
    code, here = Path(__file__).resolve().parents[1], Path.cwd().resolve()
    found = f"working directory {here}" + (f" and code from {code}" if code != here else "")
    advice = f"make the code visible at {root} on this node, or set `root` of the site"
    return Check("working directory", here == root == code, found, f"the code's folder {root}", advice)


def room(name: str, folder: Path, disk_gb: float) -> list[Check]:
    """Free space and free inodes where a folder lies."""
    try:
        there = os.statvfs(folder)
    except OSError as error:
        return [Check(f"space in the {name}", False, f"{folder} ({error.strerror})", "a folder", "create it")]
    free_gb = there.f_bavail * there.f_frsize / 1e9
    space = Check(
        f"space in the {name}",
        free_gb >= disk_gb,
        f"{free_gb:.2f} GB free at {folder}",
        f"{disk_gb:g} GB",
        "free space there, or let the job write elsewhere",
    )
    inodes = Check(
        f"inodes in the {name}",
        there.f_files == 0 or there.f_favail >= _MIN_INODES,
        f"{there.f_favail} free inodes at {folder}" if there.f_files else f"a file system without a count at {folder}",
        f"{_MIN_INODES} free inodes, where the file system counts them",
        "delete small files there, or let the job write elsewhere",
    )
    return [space, inodes]


def _temporary_room(disk_gb: float) -> list[Check]:
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        advice = "free space in /tmp of this node, or set TMPDIR to a folder that can be written"
        return [Check("temporary folder", False, str(error), "one that can be written", advice)]
    return room("temporary folder", folder, disk_gb)


def interpreter() -> Check:
    """Whether this Python is the one that the code is written for."""
    return Check(
        "interpreter",
        sys.version_info[:2] == _PYTHON,
        f"Python {platform.python_version()} at {sys.executable}",
        f"Python {_PYTHON[0]}.{_PYTHON[1]}",
        "name another one under `environments` of the site",
    )


def module_is_there(module: str) -> Check:
    """Whether the module to run can be found."""
    advice = "the code on this node is another version, or lies elsewhere: update it, or set `root` of the site"
    found = f"{module} can be found" if _can_be_found(module) else f"no {module} from {Path.cwd()}"
    return Check("module", _can_be_found(module), found, f"module {module}", advice)


def packages_are_there(names: tuple[str, ...]) -> Check:
    """Whether every package that the job names can be found."""
    missing = [name for name in names if not _can_be_found(name)]
    advice = f"install what is missing into {sys.prefix}, or name another environment under `environments` of the site"
    found = f"no {', no '.join(missing)}" if missing else "all of them"
    return Check("packages", not missing, found, ", ".join(names) or "none", advice)


def _can_be_found(module: str) -> bool:
    """Whether a module is there, without importing it or a package that it lies in."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        places = [str(place) for place in spec.submodule_search_locations]
        try:
            spec = importlib.machinery.PathFinder.find_spec(name, places)
        except KeyError:  # a namespace package, whose places only its imported parent knows
            return any((Path(place) / part).is_dir() for place in places)
    return spec is not None


def training_intent(job: Job) -> list[Check]:
    """Whether a training finds what its intent says; a later launch of the job goes on from what the first one left."""
    context = job.submission.parent / "context.json"
    if not context.exists():
        return []
    attempt = ((json.loads(context.read_text()).get("extras") or {}).get("params") or {}).get("attempt")
    if not isinstance(attempt, dict) or "intent" not in attempt:
        return []
    folder = Path(attempt["directory"])
    if not folder.is_dir():
        advice = "the home must lie on a file system that this node has at the same path"
        return [Check("training intent", False, f"no folder {folder}", "the attempt's folder", advice)]
    if any(path != job.launch for path in job.submission.parent.glob("*/launches/*")):
        found = f"an earlier launch of this job, and {_checkpoints(folder)}"
        return [Check("training intent", True, found, "checkpoints of an earlier launch, or none")]
    return [_fresh(folder)] if attempt["intent"] == "fresh" else [_resume(attempt)]


def _fresh(folder: Path) -> Check:
    return Check(
        "training intent",
        not any(folder.glob("step-*.pth")),
        f"{_checkpoints(folder)} in {folder}",
        "no checkpoint where a fresh training begins",
        "say `intent: resume` with the step to go on from, or begin a new attempt",
    )


def _resume(attempt: Mapping[str, Any]) -> Check:
    step, source = attempt.get("first_step"), Path(attempt.get("resume_from") or "")
    there = source.is_file()
    size = source.stat().st_size if there else 0
    named = [int(digits) for digits in re.findall(r"\d+", source.name)]
    return Check(
        "training intent",
        size > 0 and step in named,
        f"{source} with {size} bytes" if there else f"no file {source}; beside it {_checkpoints(source.parent)}",
        f"a checkpoint of step {step} that is not empty",
        "resume from a step that is there, or restore the file",
    )


def _checkpoints(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("step-*.pth"))
    return ", ".join(names) or "no checkpoint"
