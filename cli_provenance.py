"""Commands that lead from a number back to its bytes: `tracebed trace`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from files import write_whole
from home import Home

if TYPE_CHECKING:
    from provenance.tree import Trace

_FILE = click.Path(path_type=Path)


@click.command(name="trace")
@click.argument("asset", required=False)
@click.argument("partition", default="")
@click.option(
    "--value", "where", multiple=True, metavar="COLUMN=...", help="Rows of the value; default: the chosen ones."
)
@click.option("--row", metavar="TABLE:COLUMN=...,...", help="Trace one row that was found in a table, of any version.")
@click.option("--at", metavar="TIME|RUN", help="The value at a moment (ISO 8601) or of a run; default: the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write one self-contained page, for readers outside.")
@click.option("--rocrate", type=_FILE, metavar="PATH", help="Write an RO-Crate: a folder, or a zip where PATH ends so.")
@click.option("--with-artifacts", is_flag=True, help="Copy artifacts and tables into the RO-Crate.")
@click.option("--author", metavar="NAME", help="Who answers for the RO-Crate; default: nobody is named.")
@click.option("--openlineage", type=_FILE, metavar="FILE", help="Write OpenLineage events, one a line.")
@click.option("--force", is_flag=True, help="Replace what is at FILE or PATH.")
@click.pass_obj
def trace_command(
    home: Home,
    asset: str | None,
    partition: str,
    where: tuple[str, ...],
    row: str | None,
    at: str | None,
    as_json: bool,
    dot: bool,
    html: Path | None,
    rocrate: Path | None,
    with_artifacts: bool,
    author: str | None,
    openlineage: Path | None,
    force: bool,
) -> None:
    """Where the value of ASSET [PARTITION] comes from: everything down to source files, with hashes and runs.

    Text by default; one of --json, --dot, --html, --rocrate and --openlineage for another form.
    """
    if sum((as_json, dot, html is not None, rocrate is not None, openlineage is not None)) > 1:
        raise click.UsageError("choose one of --json, --dot, --html, --rocrate and --openlineage")
    if rocrate is None and (with_artifacts or author):
        raise click.UsageError("--with-artifacts and --author belong to --rocrate")
    destination = html or rocrate or openlineage
    if destination is not None:
        _refuse_to_replace(destination, force)
    elif force:
        raise click.UsageError("--force belongs to --html, --rocrate and --openlineage")
    found = _traced(home, asset, partition, where, row, at)
    if rocrate is not None:
        from io_managers.artifacts import ArtifactStore
        from provenance.views.rocrate_export import write_rocrate

        artifacts = ArtifactStore(home.artifacts) if with_artifacts else None
        write_rocrate(found, rocrate, artifacts=artifacts, author=author, replace=force)
    elif html is not None:
        from provenance.views.html import as_html

        _write(html, as_html(found))
    elif openlineage is not None:
        from provenance.views.openlineage_export import as_openlineage

        _write(openlineage, as_openlineage(found))
    click.echo(_printed(found, as_json, dot) if destination is None else str(destination))


def _traced(
    home: Home, asset: str | None, partition: str, where: tuple[str, ...], row: str | None, at: str | None
) -> Trace:
    from provenance.trace import trace, trace_row

    if row is not None:
        if asset is not None or where or at is not None:
            raise click.UsageError("--row names the value alone: leave out ASSET, --value and --at")
        name, _, columns = row.partition(":")
        return trace_row(home, name, columns_of(tuple(columns.split(",")) if columns else ()))
    if asset is None:
        raise click.UsageError("name an ASSET, or a row with --row")
    return trace(home, asset, partition, where=columns_of(where) if where else None, at=at)


def _printed(found: Trace, as_json: bool, dot: bool) -> str:
    if as_json:
        from provenance.views import as_json as json_view

        return json_view.as_json(found)
    if dot:
        from provenance.views.dot import as_dot

        return as_dot(found)
    from provenance.views.text import as_text

    return as_text(found)


def _refuse_to_replace(destination: Path, force: bool) -> None:
    """Refused before anything is traced: nothing of a user is overwritten unasked."""
    if destination.exists() and not force:
        raise click.ClickException(f"{destination} exists already; --force replaces it")


def _write(destination: Path, text: str) -> None:
    if destination.is_dir():
        raise click.ClickException(f"{destination} is a folder; name a file")
    write_whole(destination, lambda draft: draft.write_text(text, encoding="utf-8"))


def columns_of(given: tuple[str, ...]) -> dict[str, str]:
    """`COLUMN=VALUE` texts as a dictionary."""
    columns = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"found {each!r}, expected COLUMN=VALUE")
        columns[name.strip()] = value.strip()
    return columns
