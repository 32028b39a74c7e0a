"""Finds suites and tasks by name. A suite is an entry point of the group `tracebed.suites` whose value is a `Suite`.

Nothing here imports a simulator: a task may be named where it cannot run (`require_available` says so).
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import EntryPoint

from science.robots.entries import entries, load
from science.robots.tasks.base import Suite, Task, TaskError

GROUP = "tracebed.suites"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _entries() -> dict[str, EntryPoint]:
    return entries(GROUP, "suites", TaskError)


def _load(entry: EntryPoint) -> Suite:
    suite = load(entry, Suite, "suite", TaskError)
    if suite.name != entry.name or not _NAME.fullmatch(suite.name):
        raise TaskError(
            f"found suite {suite.name!r} at {entry.value}, expected the entry point's name {entry.name!r} "
            f"(letters, digits and _)"
        )
    for name, task in suite.tasks.items():
        if (task.suite, task.name) != (suite.name, name) or not _NAME.fullmatch(name):
            raise TaskError(
                f"found task {task.key!r} under the name {name!r} in suite {suite.name!r}, expected "
                f"'{suite.name}.{name}' (letters, digits and _)"
            )
    return suite


def suites() -> dict[str, Suite]:
    """Every installed suite by name.

    Raises
    ------
    TaskError
        For a name that two packages claim, or an entry that is not a suite.
    """
    return {name: _load(entry) for name, entry in _entries().items()}


def find_suite(name: str) -> Suite:
    """The suite of a name; other suites are not loaded.

    Raises
    ------
    TaskError
        When none is installed under it.
    """
    known = _entries()
    if name not in known:
        raise TaskError(
            f"found no suite {name!r}, expected one of {sorted(known)}; a suite is installed by a package with an "
            f"entry point in {GROUP!r}"
        )
    return _load(known[name])


def find_task(key: str) -> Task:
    """The task of a key ``<suite>.<name>``, whether or not this interpreter can run it.

    Raises
    ------
    TaskError
        When no installed suite has it; the text lists the keys that there are.
    """
    suite_name, _, name = key.partition(".")
    known = _entries()
    if suite_name not in known or not name:
        keys = sorted(task.key for suite in suites().values() for task in suite.tasks.values())
        raise TaskError(f"found no suite for task {key!r}, expected one of {keys}")
    suite = _load(known[suite_name])
    if name not in suite.tasks:
        keys = sorted(task.key for task in suite.tasks.values())
        reason = suite.unavailable()
        raise TaskError(f"found no task {key!r}, expected one of {keys}" + (f"; {reason}" if reason else ""))
    return suite.tasks[name]


def require_available(task: Task) -> None:
    """Refuse a task that this interpreter cannot run.

    Raises
    ------
    TaskError
        With the suite's own words: why, and how to install it.
    """
    reason = find_suite(task.suite).unavailable()
    if reason is not None:
        raise TaskError(f"task {task.key} cannot run in this interpreter: {reason}")


def environment_hash(task: Task) -> str:
    """What decides an episode of a seed, beside the policy: SHA-256 (hex) of the task and its suite's provenance.

    The engine is left out on purpose: a task names an engine only where it was verified to give robosuite's episodes
    bit for bit, so one environment has one hash whichever engine ran it. Rows record the engine apart.

    Raises
    ------
    TaskError
        When this interpreter cannot run the suite, so that there is no provenance to speak of.
    """
    require_available(task)
    content = {
        "suite": task.suite,
        "task": task.name,
        "version": task.version,
        "horizon_steps": task.horizon_steps,
        "control_hz": task.control_hz,
        "observation": dict(task.observation),
        "action_dim": task.action_dim,
        "provenance": dict(find_suite(task.suite).provenance()),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
