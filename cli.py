"""The `tracebed` command: sections, tasks, checkpoints, tables, and the demonstration. The UI is `make ui`.

Errors that a user can mend end in one message without a traceback and exit status 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from home import ROOT, Home
from io_managers.artifacts import ArtifactError
from io_managers.tables import DamagedPartition
from resources.compute.interface import SiteUnavailable

_RECOVERABLE = (ValueError, OSError, ArtifactError, DamagedPartition, SiteUnavailable)


class _Group(click.Group):
    """Shows errors that name their cause and cure as one message."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except _RECOVERABLE as error:
            if os.environ.get("TRACEBED_TRACEBACK"):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Every number leads back to its bytes. $TRACEBED_HOME (default .tracebed/) holds everything."""
    ctx.obj = Home.from_env().ensure()
    os.environ.update(TRACEBED_HOME=str(ctx.obj.root), DAGSTER_HOME=str(ctx.obj.dagster))


@main.group(name="section", cls=_Group)
def section_group() -> None:
    """Sections of tissue."""


@section_group.command(name="add")
@click.argument("key")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="Table of barcode, label (or barcode, section, label).")
@click.option("--image", type=click.Path(path_type=Path), help="Low-resolution histology image beside an h5ad.")
@click.option("--label-column", default="layer", show_default=True, help="Column of the labels.")
@click.option("--known-labels", help="Comma-separated labels that may occur; default: the cortical layers and WM.")
@click.option("--graph", type=click.Choice(["hex", "knn", "delaunay"]), default="hex", show_default=True)
@click.option("--replace", is_flag=True, help="Register another source for a section that exists.")
@click.pass_obj
def section_add(home: Home, key: str, path: Path, known_labels: str | None, **options) -> None:
    """Register section KEY from PATH: a Space Ranger folder or an h5ad. The files are read and checked now."""
    from registry import register_section

    labels = tuple(known_labels.split(",")) if known_labels else None
    click.echo(register_section(home, key, path, known_labels=labels, **options))
    click.echo(f"Next: `tracebed section fill {key}`, or materialise it from the UI (`make ui`).")


@section_group.command(name="fetch")
@click.argument("study", type=click.Choice(["dlpfc"]))
@click.argument("ids", nargs=-1, required=True)
@click.option("--counts-url", help="Base address of counts and images; default: the public one.")
@click.option("--positions-url", help="Base address of positions and labels; default: the public one.")
@click.pass_obj
def section_fetch(
    home: Home, study: str, ids: tuple[str, ...], counts_url: str | None, positions_url: str | None
) -> None:
    """Download sections of a public study, record their hashes, and register them."""
    from registry import register_section
    from resources.dlpfc import COUNTS_URL, LABELS_SHA256, POSITIONS_URL, fetch_dlpfc

    for key in ids:
        fetched = fetch_dlpfc(
            key,
            home.downloads / study,
            counts_url=counts_url or COUNTS_URL,
            positions_url=positions_url or POSITIONS_URL,
            labels_sha256=None if positions_url else LABELS_SHA256,
        )
        click.echo(register_section(home, key, fetched.folder, labels=fetched.labels))


@section_group.command(name="list")
@click.pass_obj
def section_list(home: Home) -> None:
    """Sections, where they come from, and what is there of them."""
    from registry import list_sections

    _print(list_sections(home))


@section_group.command(name="fill")
@click.argument("keys", nargs=-1, required=True)
@click.option("--here", is_flag=True, help="Run in this process instead of handing a backfill to the daemon.")
@click.option(
    "--only", multiple=True, metavar="VARIANT", help="Encoder variants; default: all whose cohort is complete."
)
@click.pass_obj
def section_fill(home: Home, keys: tuple[str, ...], here: bool, only: tuple[str, ...]) -> None:
    """Materialise everything that sections need, against each other and all others, in ONE backfill.

    Encoders that are fitted are never refitted.
    """
    from study import fill_here, submit_backfill

    if not here:
        click.echo(submit_backfill(home, keys, only))
    elif not fill_here(home, keys, only, click.echo):
        sys.exit(1)


@section_group.command(name="remove")
@click.argument("key")
@click.pass_obj
def section_remove(home: Home, key: str) -> None:
    """Take KEY out of the partitions. What was published of it stays on disk and in the tables."""
    from registry import remove_section

    click.echo(remove_section(home, key))


@main.group(name="task", cls=_Group)
def task_group() -> None:
    """Robot tasks: partition keys `<suite>.<task>`."""


@task_group.command(name="add")
@click.argument("keys", nargs=-1, required=True)
def task_add(keys: tuple[str, ...]) -> None:
    """Add tasks, e.g. open.Lift."""
    from task_study import add_tasks

    with dagster_instance() as instance:
        add_tasks(instance, keys)
    click.echo(f"Next: `tracebed task fill {' '.join(keys)}`, or materialise it from the UI (`make ui`).")


@task_group.command(name="list")
@click.pass_obj
def task_list(home: Home) -> None:
    """Tasks that were added and that could be, and what is there of them."""
    from task_study import list_tasks

    _print(list_tasks(home))


@task_group.command(name="fill")
@click.argument("keys", nargs=-1, required=True)
@click.option("--here", is_flag=True, help="Run in this process instead of handing a backfill to the daemon.")
@click.option("--only", multiple=True, metavar="POLICY", help="Policies beside the controls; default: all.")
@click.pass_obj
def task_fill(home: Home, keys: tuple[str, ...], here: bool, only: tuple[str, ...]) -> None:
    """Materialise everything that tasks need in ONE backfill. What was trained is never trained again."""
    from task_study import fill_tasks_here, submit_tasks

    if not here:
        click.echo(submit_tasks(home, keys, only))
    elif not fill_tasks_here(home, keys, only, click.echo):
        sys.exit(1)


@task_group.command(name="remove")
@click.argument("key")
def task_remove(key: str) -> None:
    """Take KEY out of the partitions. What was published of it stays on disk and in the tables."""
    from task_study import remove_task

    with dagster_instance() as instance:
        remove_task(instance, key)
    click.echo(f"{key} is no longer a partition; what was published of it stays")


@main.group(name="checkpoint", cls=_Group)
def checkpoint_group() -> None:
    """Checkpoints of policies."""


@checkpoint_group.command(name="import")
@click.argument("policy")
@click.argument("task")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--trusted", is_flag=True, help="The file may run code while it is read. Only for files you made.")
@click.pass_obj
def checkpoint_import(home: Home, policy: str, task: str, path: Path, trusted: bool) -> None:
    """Take in a checkpoint that was trained elsewhere: a file or a symlink, marked EXTERNAL."""
    from task_study import import_checkpoint

    if not import_checkpoint(home, policy, task, path, trusted, click.echo):
        sys.exit(1)


@main.group(name="train", cls=_Group)
def train_group() -> None:
    """Trainings."""


@train_group.command(name="plan")
@click.argument("policy")
@click.argument("tasks", nargs=-1, required=True)
@click.option("--intent", type=click.Choice(["fresh", "resume"]))
@click.option("--step", type=int, help="The step that a resume expects.")
@click.pass_obj
def train_plan(home: Home, policy: str, tasks: tuple[str, ...], intent: str | None, step: int | None) -> None:
    """What training POLICY on TASKS would do: fresh, resume, or refused and why. Nothing is started."""
    from task_study import REFUSED, training_plan

    lines = training_plan(home, policy, tasks, intent, step)
    for line in lines:
        click.echo(line)
    if any(line.startswith(REFUSED) for line in lines):
        sys.exit(1)


@main.group(name="site", cls=_Group)
def site_group() -> None:
    """Sites where jobs run: `sites.toml`."""


@site_group.command(name="list")
def site_list() -> None:
    """Sites, how they are reached, and which assets run there."""
    import polars as pl

    from resources.compute.sites import load_sites

    sites = load_sites()
    rows = [
        {
            "site": site.name,
            "scheduler": site.scheduler,
            "reached": site.reach().where,
            "partition": site.partition,
            "runs": ", ".join(sorted(group for group, name in sites.runs_on.items() if name == site.name)),
        }
        for site in sites.sites.values()
    ]
    _print(pl.DataFrame(rows))


@site_group.command(name="check")
@click.argument("name")
@click.option("--gpus", default=0, show_default=True, help="GPUs that the probing job asks for.")
@click.pass_obj
def site_check(home: Home, name: str, gpus: int) -> None:
    """Try site NAME end to end, a job included, and say what was found."""
    from resources.compute.interface import Needs
    from resources.compute.site_check import check_site
    from resources.compute.sites import load_sites

    site = load_sites().site(name)
    failed = False
    for found in check_site(home, site, Needs(memory_gb=1.0, gpus=gpus, disk_gb=0.1)):
        click.echo(found.line())
        failed |= not found.works
    if failed:
        sys.exit(1)


@site_group.command(name="login")
@click.argument("name")
def site_login(name: str) -> None:
    """Log in to site NAME by hand, once (passwords, second factors): later commands use this connection."""
    from resources.compute.sites import load_sites

    site = load_sites().site(name)
    if site.ssh is None:
        raise click.ClickException(f"site {name} is this host: nothing to log in to")
    command = site.ssh.reach().command("ControlMaster=yes", "ControlPersist=43200")
    os.execvp(command[0], [*command, "echo", "logged in; the connection is kept for 12 hours"])


@main.command(name="jobs")
@click.option("--site", help="Only jobs of this site.")
@click.option("--asset", help="Only jobs of assets whose key contains this.")
@click.option("--open", "only_open", is_flag=True, help="Only jobs that have not ended.")
@click.option("--usage", is_flag=True, help="Ask the sites what ended jobs used, and show that instead of times.")
@click.option("--limit", default=40, show_default=True, help="The newest so many.")
@click.pass_obj
def jobs_command(home: Home, site: str | None, asset: str | None, only_open: bool, usage: bool, limit: int) -> None:
    """Every job: what it computes, where it ran, how it ended. Newest first."""
    import polars as pl

    from resources.compute.job_table import job_table, refresh_usage
    from resources.compute.sites import load_sites

    for problem in refresh_usage(home, load_sites()) if usage else ():
        click.echo(f"not asked: {problem}", err=True)
    frame = job_table(home)
    if site:
        frame = frame.filter(pl.col("site") == site)
    if asset:
        frame = frame.filter(pl.col("asset").str.contains(asset, literal=True))
    if only_open:
        frame = frame.filter(pl.col("ending").is_null())
    moments = [pl.col(name).dt.strftime("%m-%d %H:%M:%S") for name in ("submitted_at", "started_at", "ended_at")]
    used = ["gpus", "cpus", "memory_gb", "elapsed_s", "cpu_s", "max_rss_gb"]
    what = ["asset", "partition", "submission", "site", "node", "reference", "ending"]
    _print(frame.select(*what, *(used if usage else [*moments, "detail"]), "key").head(limit))
    click.echo(f"{min(limit, frame.height)} of {frame.height} submissions; times are UTC")


@main.command(name="incident")
@click.argument("node")
@click.option("--at", help="A moment (ISO 8601) at or after the failure; default: the last failure.")
@click.option("--site", help="Site that the node belongs to; default: the only one with a scheduler.")
@click.pass_obj
def incident_command(home: Home, node: str, at: str | None, site: str | None) -> None:
    """What NODE took with it when it failed: who was running, who had ended before, what the platform then did."""
    from datetime import datetime

    from resources.compute.incident_sources import investigate
    from resources.compute.sites import load_sites

    sites = load_sites()
    scheduled = [each.name for each in sites.sites.values() if each.scheduler == "slurm"]
    if site is None and len(scheduled) != 1:
        raise click.ClickException(
            f"say which site {node} belongs to with --site; the sites are {', '.join(sites.sites)}"
        )
    found = investigate(home, sites.site(site or scheduled[0]), node, datetime.fromisoformat(at) if at else None)
    click.echo(found.markdown())


@main.command()
@click.argument("query")
@click.option("--csv", is_flag=True, help="Print comma-separated values.")
@click.pass_obj
def sql(home: Home, query: str, csv: bool) -> None:
    """Run a DuckDB QUERY over all tables. It blocks nobody and is blocked by nobody."""
    import duckdb

    from io_managers.catalog import connect

    try:
        with connect(home) as connection:
            result = connection.sql(query)
            frame = result.pl() if result is not None else None
    except duckdb.Error as error:
        raise click.ClickException(f"{error}\n`tracebed tables` lists the tables.") from error
    if frame is not None:
        click.echo(frame.write_csv(), nl=False) if csv else _print(frame)


@main.command()
@click.argument("destination", type=click.Path(path_type=Path))
@click.pass_obj
def snapshot(home: Home, destination: Path) -> None:
    """Write all rows of all tables into one self-contained DuckDB file."""
    from io_managers import catalog

    catalog.snapshot(home, destination)
    click.echo(f"{destination}: {destination.stat().st_size / 1e6:.1f} MB")


@main.command()
@click.argument("name", required=False)
@click.pass_obj
def tables(home: Home, name: str | None) -> None:
    """List the tables, or the columns of one with units and meaning; removes drafts that dead writers left behind."""
    import polars as pl

    from io_managers.catalog import ensure_catalog
    from io_managers.publish import sweep
    from io_managers.schemas import SYSTEM_COLUMNS, TABLES, table
    from io_managers.tables import TableStore

    ensure_catalog(home)
    store = TableStore(home.tables)
    if name:
        columns = [
            {"column": c.name, "type": str(c.dtype), "null": c.nullable, "unit": c.unit, "meaning": c.meaning}
            for c in (*table(name).columns, *SYSTEM_COLUMNS)
        ]
        click.echo(f"{name}: a row is {table(name).row}")
        _print(pl.DataFrame(columns))
    else:
        counts = [{"table": n, "partitions": len(store.partitions(n)), "a row is": s.row} for n, s in TABLES.items()]
        _print(pl.DataFrame(counts))
    for draft in (*sweep(home.tables), *sweep(home.artifacts)):
        click.echo(f"removed a draft of a dead writer: {draft}")


@main.command()
@click.pass_obj
def demo(home: Home) -> None:
    """Materialise a study of each stream, and print the benchmarks: two simulated sections, and the robot task Lift."""
    from study import run_demo
    from task_study import run_task_demo

    succeeded = [run_demo(home, click.echo), run_task_demo(home, click.echo)]
    if not all(succeeded):
        sys.exit(1)


@main.command()
@click.option("--port", default=3000, show_default=True)
@click.pass_obj
def ui(home: Home, port: int) -> None:
    """Dagster's UI and daemon for this home, on 127.0.0.1, and its artifacts on the next port."""
    from resources.artifact_server import PORT_VARIABLE, start_artifact_server

    artifact_port = os.environ.setdefault(PORT_VARIABLE, str(port + 1))
    click.echo(f"Artifacts (videos, checkpoints): {start_artifact_server(home.artifacts, int(artifact_port))}")
    os.chdir(ROOT)
    command = ["dagster", "dev", "-h", "127.0.0.1", "-p", str(port), "-w", str(ROOT / "workspace.yaml")]
    os.execvpe(str(Path(sys.executable).with_name("dagster")), command, home.environment())


def dagster_instance():
    """Dagster's instance of this home."""
    import dagster as dg

    return dg.DagsterInstance.get()


def _print(frame) -> None:
    import polars as pl

    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=220, fmt_str_lengths=120, tbl_hide_dataframe_shape=True):
        click.echo(str(frame))


if __name__ == "__main__":
    main()
