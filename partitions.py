"""The partitions of the data: sections, the sections again in the target role, and tasks.

A directed pair is a partition of two dimensions, source x target. Dagster infers the edges of a pair only where its two
dimensions have definitions of their own, hence the mirror `target_sections`. The commands change both together; a
sensor mirrors a key that was added in the UI.
"""

from __future__ import annotations

import re

import dagster as dg

SECTIONS = dg.DynamicPartitionsDefinition(name="sections")
TARGET_SECTIONS = dg.DynamicPartitionsDefinition(name="target_sections")
TASKS = dg.DynamicPartitionsDefinition(name="tasks")
PAIRS = dg.MultiPartitionsDefinition({"source": SECTIONS, "target": TARGET_SECTIONS})

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

_RESERVED = ("data.parquet",)  # the file of every partition


class PartitionKeyError(ValueError):
    """A key that cannot name a partition."""


def valid_key(key: str) -> str:
    """The key itself, if it may name a partition.

    Raises
    ------
    PartitionKeyError
        When it holds anything but `[A-Za-z0-9._-]`, starts with `.` or `-`, contains `..`, or is longer than 64:
        such keys are folder names, parts of `source|target`, and arguments of commands.
    """
    if not _KEY.fullmatch(key) or ".." in key or key in _RESERVED:
        raise PartitionKeyError(
            f"{key!r} cannot name a partition: use 1 to 64 of the characters A-Z a-z 0-9 . _ - , "
            f"beginning with a letter, a digit or _, without '..', and not {' or '.join(_RESERVED)}"
        )
    return key


def pair(source: str, target: str) -> dg.MultiPartitionKey:
    """The partition key of a directed pair."""
    return dg.MultiPartitionKey({"source": source, "target": target})


def add_section_key(instance: dg.DagsterInstance, key: str) -> None:
    """Add a section to both dimensions."""
    valid_key(key)
    for definition in (SECTIONS, TARGET_SECTIONS):
        instance.add_dynamic_partitions(definition.name or "", [key])


def section_keys(instance: dg.DagsterInstance) -> list[str]:
    """The sections that exist, sorted."""
    return sorted(instance.get_dynamic_partitions(SECTIONS.name or ""))


def task_keys(instance: dg.DagsterInstance) -> list[str]:
    """The tasks that were added, sorted; each is `<suite>.<task>`."""
    return sorted(instance.get_dynamic_partitions(TASKS.name or ""))
