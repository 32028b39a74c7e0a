"""What decides numbers and is not as it was: code, libraries, host, threads. Named before the result, not after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from provenance.lineage import THIS_HOST, deciding_versions, git_commit
from replay.target import Target

Job = Mapping[str, Any]


def differs(target: Target, asset: dg.AssetsDefinition) -> list[str]:
    """What is not as the record says, a line each; empty where nothing is known to differ."""
    record = target.record
    now = asset.code_versions_by_key[dg.AssetKey.from_user_string(record.asset)] or ""
    found = []
    if now != record.code_version:
        found.append(f"code version of the asset: {record.code_version} then, {now} now")
    if record.git_commit != (commit := git_commit()):
        found.append(f"git commit: {record.git_commit or 'not known'} then, {commit or 'not known'} now")
    elif commit is not None and commit.endswith("+dirty"):
        found.append(f"git commit: {commit} then and now, with changes that were not committed: they may differ")
    return found + differing_versions(record.versions)


def differing_versions(recorded: Mapping[str, str]) -> list[str]:
    """What decides numbers and is another than recorded: libraries, the CPU."""
    installed = deciding_versions()
    return [
        f"{name}: {recorded.get(name, 'not known')} then, {installed.get(name, 'not there')} now"
        for name in sorted({*recorded, *installed})
        if recorded.get(name) != installed.get(name)
    ]


def where_it_ran(target: Target, job: Job) -> str:
    """Host and time of the recorded computation, in words."""
    record = target.record
    if record.job_key is None:
        return f"computed in the run itself, on {record.node}"
    if not job:
        return f"computed by job {record.job_key} on {record.node}; its directory is gone"
    took_s = seconds_of(job)
    took = "" if took_s is None else f", in {took_s:.0f} s"
    here = "" if record.node == THIS_HOST else f" (this is {THIS_HOST})"
    return f"computed by a job on site {job['site']}, {record.node}{here}, with {job['cpus']} threads{took}"


def seconds_of(job: Job) -> float | None:
    """How long the recorded job took; None where that is not known."""
    if not job or job["started_at"] is None or job["ended_at"] is None:
        return None
    return (job["ended_at"] - job["started_at"]).total_seconds()
