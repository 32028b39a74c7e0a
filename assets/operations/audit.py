"""The audit as an asset: what it found, as a table, with a check for each kind of finding.

The checks are this asset's, not those of what it audits: Dagster runs all checks of an asset with every materialisation
of it, each step in a process of its own. What concerns an asset is noted on that asset as an observation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import dagster as dg
import polars as pl
from pydantic import Field

from io_managers.schemas import table
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from provenance.audit.findings import AuditReport, Finding, Kind

AUDIT = dg.AssetKey(["operations", "audit"])
_SHOWN = 50
_WARNINGS = {Kind.OLDER_INPUT, Kind.ORPHAN_ARTIFACT}


class AuditConfig(dg.Config):
    """What is audited, and how."""

    selection: list[str] = Field([], description="assets, prefixes or globs; empty: everything, and orphans")
    full: bool = Field(False, description="read every byte again, also of files whose stat is unchanged")


def check_name(kind: Kind) -> str:
    """The check that a kind of finding fails."""
    return f"no_{kind.replace(' ', '_')}"


@dg.asset(
    key=AUDIT,
    io_manager_key="tables",
    group_name="operations",
    kinds={"parquet"},
    code_version="1",
    description=(
        "Lineage records, Dagster's event log, tables, artifacts and source files held against each other, "
        "incrementally. `tracebed audit` says the same at once."
    ),
    check_specs=[
        dg.AssetCheckSpec(check_name(kind), asset=AUDIT, description=f"the audit found: {kind}, nowhere")
        for kind in Kind
    ],
)
def audit(context: dg.AssetExecutionContext, config: AuditConfig, tables: dg.ResourceParam[TableIOManager]):
    """One row a finding."""
    from provenance.audit.audit import audit as hold

    report = hold(tables.home_folders(), context.instance, config.selection, full=config.full)
    for observation in observations(report):
        context.log_event(observation)
    rows = [asdict(each) | {"kind": str(each.kind)} for each in report.findings]
    schema = {column.name: column.dtype for column in table("audit").columns}
    metadata = {
        "findings": dg.MetadataValue.md(findings_markdown(report.findings)),
        "not_checked": [f"{each.n} {each.what}: {each.reason}" for each in report.not_checked],
        **{name: number for name, number in asdict(report.counts).items()},
    }
    return materialised(Rows(pl.DataFrame(rows, schema=schema)), metadata, list(_checks(report)))


def _checks(report: AuditReport) -> Iterator[dg.AssetCheckResult]:
    for kind in Kind:
        found = [each.subject for each in report.findings if each.kind == kind]
        yield dg.AssetCheckResult(
            check_name=check_name(kind),
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN if kind in _WARNINGS else dg.AssetCheckSeverity.ERROR,
            metadata={"found": found[:_SHOWN], "n": len(found)},
        )


def observations(report: AuditReport) -> Iterator[dg.AssetObservation]:
    """What was found of each asset and partition, to be shown among its own events."""
    for asset, partition in sorted({(each.asset, each.partition) for each in report.findings if each.asset}):
        own = [each for each in report.of(asset) if each.partition == partition]
        yield dg.AssetObservation(
            asset_key=dg.AssetKey(asset.split("/")),
            partition=partition or None,
            description=f"the audit found: {', '.join(sorted({str(each.kind) for each in own}))}",
            metadata={"audit": dg.MetadataValue.md(findings_markdown(own))},
        )


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Findings as a table for the UI."""
    if not findings:
        return "none"
    lines = ["| kind | what | found | expected | what to do | file |", "|---|---|---|---|---|---|"]
    for each in findings[:_SHOWN]:
        cells = (each.kind, each.subject, each.found, each.expected, each.to_do, each.file)
        lines.append("| " + " | ".join(str(cell).replace("|", " to ").replace("\n", " ") for cell in cells) + " |")
    if len(findings) > _SHOWN:
        lines.append(f"| and {len(findings) - _SHOWN} more, in the table `audit` | | | | | |")
    return "\n".join(lines)
