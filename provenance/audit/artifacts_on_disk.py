"""Artifacts: files whose name is the hash of their bytes, held against it, and against the rows that point to them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from files import DRAFT_PREFIX
from provenance.audit.bytes_on_disk import Memory
from provenance.audit.findings import Counts, Finding, Kind
from provenance.audit.records_on_disk import RecordFile
from provenance.audit.scope import Scope
from provenance.audit.tables_on_disk import TableFile, Version

_HASH_LENGTH = 64


def hashed(path: str) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Pointed:
    """What rows point to.

    Attributes
    ----------
    makers : artifact -> the file whose rows pointed to it first, of every kept version: that asset made it.
    needed : those to which a published value, or what it stands on, points.
    """

    makers: Mapping[str, TableFile]
    needed: frozenset[str]


def pointed_to(files: Sequence[TableFile], records: Mapping[Version, RecordFile], scope: Scope) -> Pointed:
    """The artifacts of the rows of a home."""

    def published(each: TableFile) -> float:
        record = records.get(each.version)
        return record.recorded_at if record is not None else math.inf

    pointing = sorted((each for each in files if each.artifacts), key=published, reverse=True)
    makers = {name: each for each in pointing for name in each.artifacts}
    return Pointed(
        makers, frozenset(name for each in pointing if each.version in scope.reached for name in each.artifacts)
    )


def artifacts_as_published(
    root: Path, memory: Memory, pointed: Pointed, scope: Scope, counts: Counts, judged_until: float
) -> tuple[list[Finding], int]:
    """Artifacts that are changed, missing, or orphans; and how many were too young to be called orphans.

    An artifact is kept before the rows that point to it are published: what changed after ``judged_until`` (seconds
    since 1970) may belong to a run that is under way.
    """
    found, young, there = [], 0, set()
    for entry in _entries(root):
        there.add(entry.name)
        if not scope.everything and entry.name not in pointed.needed:
            continue
        try:
            status = entry.stat()
            bytes_hash = memory.recall(entry.path, hashed, status)
        except FileNotFoundError:
            there.discard(entry.name)
            continue
        counts.artifacts += 1
        if bytes_hash != Path(entry.name).stem:
            found.append(_changed(entry, status.st_size, bytes_hash, pointed.makers.get(entry.name)))
        if scope.everything and entry.name not in pointed.makers:
            if status.st_ctime > judged_until:
                young += 1
            else:
                found.append(_orphan(entry, status.st_size))
    missing = [name for name in pointed.needed - there if not (root / name[:2] / name).exists()]
    found += [_missing(root / name[:2] / name, pointed.makers[name]) for name in sorted(missing)]
    return found, young


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    try:
        folders = [entry for entry in os.scandir(root) if entry.is_dir()]
    except FileNotFoundError:
        return
    for folder in folders:
        yield from (
            entry
            for entry in os.scandir(folder.path)
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(DRAFT_PREFIX)
        )


def _changed(entry: os.DirEntry[str], size: int, found: str, owner: TableFile | None) -> Finding:
    named = len(Path(entry.name).stem) == _HASH_LENGTH
    return Finding(
        Kind.CHANGED_ARTIFACT,
        *_where(owner),
        entry.path,
        f"sha256 {found}, {size} bytes",
        f"sha256 {Path(entry.name).stem}" if named else "a file whose name is the sha256 of its bytes",
        "it was changed after publication: delete it and materialise the asset that made it; the platform refuses "
        "to read it",
    )


def _missing(path: Path, owner: TableFile) -> Finding:
    return Finding(
        Kind.MISSING_ARTIFACT,
        *_where(owner),
        str(path),
        "no file",
        f"sha256 {path.stem}, to which rows of {owner.path} point",
        "take it from a backup, or materialise the asset that made it",
    )


def _orphan(entry: os.DirEntry[str], size: int) -> Finding:
    return Finding(
        Kind.ORPHAN_ARTIFACT,
        "",
        "",
        entry.path,
        f"{size} bytes that no row of any kept version points to",
        "a row that points to it",
        "a run died before it published, or its rows were deleted: delete it if nothing needs it",
    )


def _where(owner: TableFile | None) -> tuple[str, str]:
    return (owner.asset, owner.partition) if owner is not None else ("", "")
