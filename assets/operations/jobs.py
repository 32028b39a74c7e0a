"""Every job that ran, with what it used."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

from io_managers.table_io_manager import Rows, materialised
from resources.compute.compute import Compute
from resources.compute.job_table import job_table, refresh_usage
from resources.compute.sites import load_sites

JOBS = dg.AssetKey(["operations", "jobs"])
_NEWEST = 20


@dg.asset(
    key=JOBS,
    io_manager_key="tables",
    group_name="operations",
    kinds={"slurm", "parquet"},
    code_version="1",
    description=(
        "Every submission of every job: asset, partition, site, node, times, ending, and the resources that the "
        "scheduler's account has of it. `tracebed jobs` shows the same at once."
    ),
    check_specs=[
        dg.AssetCheckSpec("sites_answered", asset=JOBS, description="every site could be asked what its jobs used"),
        dg.AssetCheckSpec("no_lost_jobs", asset=JOBS, description="no job ended without a word, or is open for days"),
    ],
)
def jobs(compute: Compute):
    """The table of jobs as it is now."""
    home = compute.home_folders()
    problems = refresh_usage(home, load_sites())
    frame = job_table(home)
    lost = frame.filter(
        (pl.col("ending") == "NO_EXIT_FILE")
        | (pl.col("ending").is_null() & (pl.col("submitted_at") < datetime.now(UTC) - timedelta(days=3)))
    )
    endings = dict(sorted(frame.group_by("ending").len().iter_rows(), key=lambda each: str(each[0])))
    checks = [
        dg.AssetCheckResult(
            check_name="sites_answered",
            passed=not problems,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"not_asked": problems},
        ),
        dg.AssetCheckResult(
            check_name="no_lost_jobs",
            passed=lost.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"jobs": lost["key"].to_list()},
        ),
    ]
    metadata = {
        "endings": {str(name): n for name, n in endings.items()},
        "newest": dg.MetadataValue.md(newest_markdown(frame)),
    }
    yield materialised(Rows(frame), metadata, checks)


def newest_markdown(frame: pl.DataFrame) -> str:
    """The newest submissions as a table for the UI."""
    lines = ["| asset | partition | site | node | ending | submitted (UTC) | why |", "|---|---|---|---|---|---|---|"]
    for row in frame.head(_NEWEST).iter_rows(named=True):
        why = (row["detail"] or "").replace("|", "/").replace("\n", " ")
        partition = row["partition"].replace("|", " to ")
        lines.append(
            f"| {row['asset']} | {partition} | {row['site']} | {row['node'] or ''} | {row['ending'] or 'open'} "
            f"| {row['submitted_at']:%Y-%m-%d %H:%M:%S} | {why} |"
        )
    return "\n".join(lines)
