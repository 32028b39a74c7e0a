"""The audit as asset checks: `audited`, on every asset that publishes a table, run by the job `audit` or from the UI.

What an asset check cannot show is left to `tracebed audit`: orphaned artifacts, which belong to no asset, and a full
audit, which reads everything again.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from home import Home
from io_managers.table_io_manager import TableIOManager
from io_managers.tables import TableStore
from provenance.audit.findings import AuditReport, Finding
from provenance.records import Records

AUDITED = "audited"
_SHOWN = 50


def build_audit(assets: Sequence[dg.AssetsDefinition]) -> dg.AssetChecksDefinition:
    """The check `audited` of these assets; any of them can be run alone."""
    specs = [
        dg.AssetCheckSpec(
            AUDITED,
            asset=key,
            description="lineage records, Dagster's event log, tables, artifacts and source files tell the same",
        )
        for key in sorted(key for each in assets for key in each.keys)
    ]

    @dg.multi_asset_check(name=AUDITED, specs=specs, can_subset=True)
    def audited(context: dg.AssetCheckExecutionContext, tables: dg.ResourceParam[TableIOManager]):
        """Incremental: a file whose stat is as it was when it was hashed is not read again."""
        keys = {each.asset_key for each in context.selected_asset_check_keys}
        yield from results(Home(Path(tables.home)), context.instance, keys)

    return audited


def build_audit_job(checks: dg.AssetChecksDefinition):
    """The job `audit`: every asset, in one process."""
    return dg.define_asset_job(
        "audit",
        selection=dg.AssetSelection.checks(checks),
        executor_def=dg.in_process_executor,
        description="Hold lineage records, event log, tables and bytes against each other, incrementally.",
    )


def results(home: Home, instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]) -> Iterator[dg.AssetCheckResult]:
    """One audit of these assets and what they stand on; a result for each."""
    from provenance.audit.audit import audit

    names = {key.to_user_string(): key for key in keys}
    known = [name for name in Records(TableStore(home.tables)).assets() if name in names]
    report = audit(home, instance, known) if known else None
    for name, key in sorted(names.items()):
        findings = report.of(name) if report is not None else ()
        metadata = _metadata(report, name, findings) if report is not None and name in known else {}
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=AUDITED,
            passed=not findings,
            severity=dg.AssetCheckSeverity.ERROR,
            description=None if name in known else "nothing was published yet",
            metadata=metadata,
        )


def _metadata(report: AuditReport, name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    upstream = sorted({each.asset for each in report.findings} - {name})
    return {
        "findings": dg.MetadataValue.md(findings_markdown(findings) if findings else "none"),
        "not_checked": [f"{each.n} {each.what}: {each.reason}" for each in report.not_checked],
        "findings_elsewhere": upstream,
        "records": report.counts.records,
        "bytes_hashed": report.counts.bytes_hashed,
        "bytes_unchanged": report.counts.bytes_unchanged,
    }


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Findings as a table for the UI."""
    lines = ["| kind | partition | found | expected | what to do | file |", "|---|---|---|---|---|---|"]
    for each in findings[:_SHOWN]:
        cells = (each.kind, each.partition, each.found, each.expected, each.to_do, each.file)
        lines.append("| " + " | ".join(str(cell).replace("|", " to ").replace("\n", " ") for cell in cells) + " |")
    if len(findings) > _SHOWN:
        lines.append(f"| and {len(findings) - _SHOWN} more, which `tracebed audit` lists | | | | | |")
    return "\n".join(lines)
