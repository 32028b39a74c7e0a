"""GPUs of a node without a scheduler: what is there, and one lock for each of them on the node's own disk.

A slot is an flock on a file; the workload inherits its descriptor, so a slot is free as soon as its job is dead, by
whatever death. Locks bind jobs of this platform only: a GPU on which others compute is left out, whoever they are.
Whoever chooses holds `gate` for that moment and takes all GPUs that it wants or none, so two that want several cannot
deadlock.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOCKS_VARIABLE = "TRACEBED_GPU_LOCKS"
_LOCKS = "/tmp/tracebed-gpus"
_SMI_TIMEOUT_S = 60.0
_PAUSE_S = 0.5
_PAUSE_FOR_OTHERS_S = 5.0  # asking nvidia-smi costs the node something; asking for locks does not
_MIB = 1024**2


class GpuQueryFailed(RuntimeError):
    """What GPUs are here cannot be found out."""


class TooFewGpus(RuntimeError):
    """A node that has fewer GPUs than a job wants, now and for ever."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this node.

    Attributes
    ----------
    index : in the order of the PCI bus, as nvidia-smi counts.
    capability : compute capability, (major, minor); None where the driver is too old to say.
    free_gb, total_gb : memory, GB; None where it is not known.
    """

    index: int
    name: str
    capability: tuple[int, int] | None
    free_gb: float | None
    total_gb: float | None


@dataclass(frozen=True)
class Slots:
    """GPUs that this process holds, and the descriptors (inherited by what it executes) that hold them."""

    indices: tuple[int, ...]
    descriptors: tuple[int, ...]


def node_gpus() -> list[Gpu]:
    """Every GPU that nvidia-smi sees.

    Raises
    ------
    GpuQueryFailed
        Without nvidia-smi, or when it fails.
    """
    fields = ["index", "name", "compute_cap", "memory.free", "memory.total"]
    try:
        rows = _smi_rows("gpu", fields)
    except GpuQueryFailed as failed:
        if "compute_cap" not in str(failed):
            raise
        rows = [
            [index, name, "", free, total] for index, name, free, total in _smi_rows("gpu", fields[:2] + fields[3:])
        ]
    return [
        Gpu(int(index), name, _capability(capability), _gigabytes(free), _gigabytes(total))
        for index, name, capability, free, total in rows
    ]


def gpu_uuids() -> dict[str, int]:
    """UUID -> index of every GPU."""
    return {uuid: int(index) for index, uuid in _smi_rows("gpu", ["index", "uuid"])}


def computing_processes() -> dict[int, str]:
    """Index -> who computes on it, of the GPUs on which somebody does."""
    rows = _smi_rows("compute-apps", ["gpu_uuid", "pid", "process_name"])
    uuids = gpu_uuids() if rows else {}
    found: dict[int, list[str]] = {}
    for uuid, pid, name in rows:
        if uuid in uuids:
            found.setdefault(uuids[uuid], []).append(f"pid {pid} ({name}, {_owner(pid)})")
    return {index: ", ".join(processes) for index, processes in found.items()}


def number_of_gpus(number: int) -> str:
    """In words."""
    return f"{number} GPU" + "s" * (number != 1)


def take_gpus(wanted: int, job: str, say: Callable[[str], None]) -> Slots:
    """Hold ``wanted`` GPUs until this process and what it executes have ended; wait while too few are free.

    ``say`` is told once that it waits, and for whom.

    Raises
    ------
    TooFewGpus
        When the node has not that many.
    GpuQueryFailed
        When nvidia-smi cannot be asked.
    OSError
        When the lock files cannot be used.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = {int(each) for each in visible.split(",") if each.isdigit()} if visible is not None else None
    indices = sorted(gpu.index for gpu in node_gpus() if mine is None or gpu.index in mine)
    if len(indices) < wanted:
        raise TooFewGpus(number_of_gpus(len(indices)))
    folder = _lock_folder()
    told = False
    while True:
        with _gate(folder):
            held, held_by = _lock_free_ones(folder, indices)
            others = {}
            if len(held) >= wanted:
                others = {index: who for index, who in _computing_or_release(held).items() if index in held}
            usable = [index for index in held if index not in others][:wanted]
            enough = len(usable) == wanted
            if enough:
                _sign(held, usable, job)
            _release(held, keep=usable if enough else ())
        if enough:
            return Slots(tuple(usable), tuple(held[index] for index in usable))
        if not told:
            say(_waiting_for(wanted, len(indices), held_by, others))
            told = True
        time.sleep((_PAUSE_FOR_OTHERS_S if others else _PAUSE_S) * random.uniform(0.5, 1.0))


def _lock_folder() -> Path:
    """The folder of the locks, which several users share."""
    folder = Path(os.environ.get(LOCKS_VARIABLE) or _LOCKS)
    with _open_to_all(), suppress(FileExistsError):
        folder.mkdir(mode=0o1777)
    return folder


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """The right to take slots. It is held for a moment, or as long as nvidia-smi takes to answer."""
    descriptor = _open(folder / "gate")
    try:
        while not _try_lock(descriptor):
            time.sleep(random.uniform(0.02, 0.1))
        yield
    finally:
        os.close(descriptor)


def _lock_free_ones(folder: Path, indices: list[int]) -> tuple[dict[int, int], dict[int, str]]:
    """Lock every slot that is free: index -> descriptor; and index -> what the holder of a taken one wrote into it."""
    held: dict[int, int] = {}
    held_by: dict[int, str] = {}
    for index in indices:
        descriptor = _open(folder / f"gpu-{index}")
        if _try_lock(descriptor):
            held[index] = descriptor
        else:
            held_by[index] = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
    return held, held_by


def _computing_or_release(held: dict[int, int]) -> dict[int, str]:
    try:
        return computing_processes()
    except GpuQueryFailed:
        _release(held)
        raise


def _sign(held: dict[int, int], indices: list[int], job: str) -> None:
    """Write into the locks who holds them, and let them outlive an exec."""
    line = f"pid {os.getpid()} of job {job} ({_owner(str(os.getpid()))})\n".encode()
    for index in indices:
        os.ftruncate(held[index], 0)
        os.pwrite(held[index], line, 0)
        os.set_inheritable(held[index], True)


def _release(held: dict[int, int], keep: list[int] | tuple[int, ...] = ()) -> None:
    for index, descriptor in held.items():
        if index not in keep:
            os.close(descriptor)


def _waiting_for(wanted: int, here: int, held_by: dict[int, str], others: dict[int, str]) -> str:
    told = [f"GPU {index} is held by {who or 'a job that has not signed yet'}" for index, who in held_by.items()]
    told += [f"on GPU {index} computes {who}, which took no slot" for index, who in others.items()]
    return f"waiting for {wanted} of {number_of_gpus(here)}: {'; '.join(told)}"


def _open(path: Path) -> int:
    """Open a lock file that any user may have made.

    One that exists is opened without O_CREAT, which fs.protected_regular refuses for another user's file in /tmp.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        with _open_to_all(), suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    return os.open(path, flags)


@contextmanager
def _open_to_all() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _smi_rows(what: str, fields: list[str]) -> list[list[str]]:
    """Rows of an `nvidia-smi --query-...`."""
    argv = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except FileNotFoundError as missing:
        raise GpuQueryFailed("no nvidia-smi on PATH") from missing
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuQueryFailed(f"nvidia-smi could not be asked: {error}") from error
    said = (done.stdout + done.stderr).strip()
    if "No devices were found" in said:
        return []
    rows = [[part.strip() for part in line.split(",", len(fields) - 1)] for line in done.stdout.splitlines() if line]
    if done.returncode or any(len(row) != len(fields) for row in rows):
        raise GpuQueryFailed(f"`{' '.join(argv)}` ended with {done.returncode} and said: {said[:300]}")
    return rows


def _capability(text: str) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def _gigabytes(mebibytes: str) -> float | None:
    return int(mebibytes) * _MIB / 1e9 if mebibytes.isdigit() else None


def _owner(pid: str) -> str:
    """The user of a process, in words."""
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return "of a user that is not seen from here"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
