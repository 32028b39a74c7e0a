"""The `tracebed` command: sections, tasks, checkpoints, tables, and the demonstration. The UI is `make ui`.

Sites, jobs and incidents are in `cli_operations.py`.

Errors that a user can mend end in one message without a traceback and exit status 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from cli_audit import audit_command, lineage_group
from cli_operations import incident_command, jobs_command, site_group
from cli_policy import policy_group
from cli_provenance import trace_command
from cli_replay import replay_command
from cli_runs import gc_command, runs_group
from cli_weights import weights_group
from home import ROOT, Home
from terminal import Group, print_frame


@click.group(cls=Group)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Every number leads back to its bytes. $TRACEBED_HOME (default .tracebed/) holds everything."""
    ctx.obj = Home.from_env().ensure()
    os.environ.update(TRACEBED_HOME=str(ctx.obj.root), DAGSTER_HOME=str(ctx.obj.dagster))


@main.group(name="section", cls=Group)
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

    print_frame(list_sections(home))


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


@main.group(name="task", cls=Group)
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

    print_frame(list_tasks(home))


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


@main.group(name="checkpoint", cls=Group)
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


@main.group(name="train", cls=Group)
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
        click.echo(frame.write_csv(), nl=False) if csv else print_frame(frame)


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
        print_frame(pl.DataFrame(columns))
    else:
        counts = [{"table": n, "partitions": len(store.partitions(n)), "a row is": s.row} for n, s in TABLES.items()]
        print_frame(pl.DataFrame(counts))
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


main.add_command(site_group)
main.add_command(jobs_command)
main.add_command(incident_command)
main.add_command(trace_command)
main.add_command(audit_command)
main.add_command(lineage_group)
main.add_command(weights_group)
main.add_command(policy_group)
main.add_command(replay_command)
main.add_command(runs_group)
main.add_command(gc_command)


def dagster_instance():
    """Dagster's instance of this home."""
    import dagster as dg

    return dg.DagsterInstance.get()


if __name__ == "__main__":
    main()
