"""Naming a process so that it is never mistaken for another: host, boot, pid and start time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> dict[str, Any]:
    """The running process."""
    pid = os.getpid()
    return {"host": os.uname().nodename, "boot": _BOOT.read_text().strip(), "pid": pid, "ticks": _start_ticks(pid)}


def lives(named: Mapping[str, Any]) -> bool | None:
    """Whether a process that `this_process` named still lives; None where it is another host's."""
    if named["host"] != os.uname().nodename:
        return None
    return named["boot"] == _BOOT.read_text().strip() and _start_ticks(named["pid"]) == named["ticks"]


def is_same(pid: int, seen_at: float) -> bool:
    """Whether the process that had a pid at a moment (Unix seconds) on this host still lives."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= seen_at + 1.0
    except psutil.NoSuchProcess:
        return False


def _start_ticks(pid: int) -> str | None:
    """Start time in clock ticks since boot; None when the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
