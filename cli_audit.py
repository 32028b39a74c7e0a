"""Commands that hold the records against the world: `tracebed audit`, `tracebed lineage rebuild`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from home import Home
from terminal import Group

if TYPE_CHECKING:
    import dagster as dg

    from provenance.audit.findings import AuditReport, Counts, Finding, Kind

SHOWN_OF_A_KIND = 20


class _KindName(click.ParamType):
    """A kind of finding by its name; the kinds are looked up when one is given, not when the command is loaded."""

    name = "kind"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        from provenance.audit.findings import Kind

        try:
            return Kind(value.replace("-", " "))
        except ValueError:
            self.fail(f"{value!r} is no kind of finding; the kinds are {', '.join(map(repr, map(str, Kind)))}")


@click.command(name="audit")
@click.argument("selection", nargs=-1)
@click.option("--full", is_flag=True, help="Read and hash every file again, also those whose stat is unchanged.")
@click.option("--ignore", multiple=True, type=_KindName(), metavar="KIND", help="Leave findings of this kind out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def audit_command(home: Home, selection: tuple[str, ...], full: bool, ignore: tuple[Kind, ...], as_json: bool) -> None:
    """Hold records, Dagster's event log, tables and bytes against each other; exit status 1 if anything differs.

    SELECTION: asset keys, prefixes or globs, each perhaps with a partition (`policy/success_rate/bc_rnn:open.Lift`),
    held with all that they stand on. Without one, everything is held, and orphans are looked for.
    """
    from provenance.audit.audit import audit

    with _instance(home) as instance:
        report = audit(home, instance, selection, full=full, say=_progress).ignoring(ignore)
    if as_json:
        click.echo(json.dumps(report.described(), indent=2))
    else:
        for line in _lines(report):
            click.echo(line)
    if not report.clean:
        sys.exit(1)


@contextlib.contextmanager
def _instance(home: Home) -> Iterator[dg.DagsterInstance | None]:
    """Dagster's instance of a home; None where it has none."""
    if not (home.dagster / "dagster.yaml").exists():
        yield None
        return
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance


def _progress(step: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{step} ...", err=True)


def _lines(report: AuditReport) -> Iterator[str]:
    yield from _summary(report.counts)
    kinds: dict[Kind, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        kinds[finding.kind].append(finding)
    for kind, findings in kinds.items():
        for finding in findings[:SHOWN_OF_A_KIND]:
            yield ""
            yield from _block(finding)
        if len(findings) > SHOWN_OF_A_KIND:
            yield f"\n{kind}: {len(findings) - SHOWN_OF_A_KIND} more, which --json lists"
    if report.not_checked:
        yield "\nnot checked:"
        yield from (f"  {each.n} {each.what}: {each.reason}" for each in report.not_checked)
    told = ", ".join(f"{len(findings)} {kind}" for kind, findings in kinds.items())
    yield f"\nfindings: {told}" if told else "\nno findings"


def _summary(counts: Counts) -> Iterator[str]:
    yield (
        f"{counts.partitions} partitions, {counts.versions} versions, {counts.records} records against "
        f"{counts.events} events, {counts.artifacts} artifacts, {counts.sources} source files"
    )
    yield (
        f"{counts.bytes_hashed / 1e6:.1f} MB read and hashed, {counts.bytes_unchanged / 1e6:.1f} MB unchanged since "
        "they were hashed before"
    )


def _block(finding: Finding) -> Iterator[str]:
    yield f"{finding.kind}: {finding.subject}"
    if finding.asset and finding.file:
        yield f"  file      {finding.file}"
    yield f"  found     {finding.found}"
    yield f"  expected  {finding.expected}"
    yield f"  to do     {finding.to_do}"


@click.group(name="lineage", cls=Group)
def lineage_group() -> None:
    """The table of lineage records."""


@lineage_group.command(name="rebuild")
@click.pass_obj
def lineage_rebuild(home: Home) -> None:
    """Write lost records again from Dagster's event log; one that is there is never touched."""
    from provenance.rebuild import rebuild

    with _instance(home) as instance:
        if instance is None:
            raise click.ClickException(f"there is no Dagster home at {home.dagster}: no event log to rebuild from")
        done = rebuild(home, instance)
    click.echo(f"{done.there} records were there, {len(done.whole)} were written as their runs wrote them")
    if done.partly:
        click.echo(f"{len(done.partly)} were written without what their events do not know:")
    for record, lacking in done.partly:
        click.echo(f"  {record.asset} [{record.partition}] of run {record.run_id}: not recovered: {lacking}")
    for told, why in done.not_written:
        click.echo(f"not written: {told}: {why}")
    if done.not_written:
        sys.exit(1)
