"""The table of jobs, from their directories; what a scheduler's account adds is asked for once, in one call a site."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import polars as pl

from home import Home
from io_managers.schemas import table
from resources.compute.backends import backend_of
from resources.compute.interface import SiteUnavailable
from resources.compute.job_directory import JobDirectory, SubmissionDirectory, every_job, write_text
from resources.compute.sites import SiteError, Sites

_USED = ("elapsed_s", "cpu_s", "max_rss_gb")


def job_table(home: Home) -> pl.DataFrame:
    """One row a submission of every job, newest first, in the schema of table `jobs`."""
    rows = [submission_row(job, number) for job in every_job(home.jobs) for number in job.submissions()]
    schema = {column.name: column.dtype for column in table("jobs").columns}
    return pl.DataFrame(rows, schema=schema).sort("submitted_at", descending=True)


def refresh_usage(home: Home, sites: Sites) -> list[str]:
    """Ask each site what its ended jobs used, where that is not known; returns what could not be asked."""
    wanted: dict[str, list[SubmissionDirectory]] = defaultdict(list)
    for job in every_job(home.jobs):
        for files in (job.submission(number) for number in job.submissions()):
            if files.read_ended() and files.read_handle() and not (files.path / "usage.json").exists():
                wanted[job.recorded()["site"]].append(files)
    problems = []
    for name, submissions in wanted.items():
        try:
            site = sites.site(name)
            handles = [handle for files in submissions if (handle := files.handle())]
            used = backend_of(site, home.site(name)).usage(handles)
        except (SiteUnavailable, SiteError) as error:
            problems.append(f"{name}: {error}")
            continue
        for handle in handles:
            if handle.key in used:
                write_text(handle.directory / "usage.json", json.dumps(dict(used[handle.key])))
    return problems


def submission_row(job: JobDirectory, number: int) -> dict[str, Any]:
    """One row of table `jobs`: a submission, from its directory."""
    files, asked = job.submission(number), job.recorded()
    ended, launch = files.read_ended() or {}, files.launch()
    started = launch.started() if launch else {}
    usage_file = files.path / "usage.json"
    used = json.loads(usage_file.read_text()) if usage_file.exists() else {}
    intent, known = files.read_intent() or {}, files.read_handle() or {}
    submitted = datetime.fromisoformat(intent["at"]).astimezone(UTC) if intent else None
    return {
        "key": asked["key"],
        "submission": number,
        **{name: asked[name] for name in ("asset", "partition", "module", "site")},
        "node": ended.get("node") or started.get("node"),
        "reference": known.get("job") or known.get("process"),
        "ending": ended.get("ending"),
        "detail": ended.get("detail") or None,
        "retried": ended.get("retried"),
        "asked_by_run": asked["run_id"],
        **{name: asked["needs"][name] for name in ("gpus", "cpus", "memory_gb")},
        "submitted_at": submitted or datetime.fromisoformat(asked["created_at"]),
        "started_at": datetime.fromtimestamp(int(started["started_at"]), UTC) if started else None,
        "ended_at": datetime.fromisoformat(ended["ended_at"]) if ended else None,
        **{name: used.get(name) for name in _USED},
    }
