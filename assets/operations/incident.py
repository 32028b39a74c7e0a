"""What a node took with it when it failed."""

from datetime import datetime

import dagster as dg
import polars as pl
from pydantic import Field

from assets.earlier import earlier_rows, with_earlier
from io_managers.schemas import table
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from resources.compute.compute import Compute
from resources.compute.incident_sources import IncidentError, investigate
from resources.compute.sites import SiteError, load_sites

INCIDENT = dg.AssetKey(["operations", "incident"])


class IncidentConfig(dg.Config):
    """Which node, where, and when."""

    node: str = Field(description="the node that failed")
    site: str = Field(description="site of sites.toml that it belongs to")
    at: str | None = Field(None, description="a moment (ISO 8601) at or after the failure; default: the last failure")


@dg.asset(
    key=INCIDENT,
    io_manager_key="tables",
    group_name="operations",
    kinds={"slurm", "parquet"},
    code_version="1",
    description=(
        "Who was running on a node when it failed, and who had ended before: every job step, ours and others', held "
        "against the window of the failure. Earlier incidents stay. `tracebed incident NODE` shows the same."
    ),
    check_specs=[
        dg.AssetCheckSpec("accounting_complete", asset=INCIDENT, description="the site keeps account, open and current")
    ],
)
def incident(
    context: dg.AssetExecutionContext,
    config: IncidentConfig,
    compute: Compute,
    tables: dg.ResourceParam[TableIOManager],
):
    """The report of one failure, and its rows beside those of earlier ones."""
    home = compute.home_folders()
    try:
        site = load_sites().site(config.site)
        found = investigate(home, site, config.node, datetime.fromisoformat(config.at) if config.at else None)
    except (IncidentError, SiteError, ValueError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    schema = {column.name: column.dtype for column in table("incident").columns}
    earlier = earlier_rows(context, tables)
    identity = ["site", "node", "window_end", "job", "step", "started_at"]
    rows = with_earlier(Rows(pl.DataFrame(found.rows(), schema=schema)), earlier, "incident", identity)
    check = dg.AssetCheckResult(
        check_name="accounting_complete",
        passed=not found.limits,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"limits": list(found.limits)},
    )
    metadata = {"report": dg.MetadataValue.md(found.markdown())}
    yield materialised(rows, metadata, [check])
