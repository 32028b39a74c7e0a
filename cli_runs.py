"""Commands about what was computed before: `tracebed runs compare`, and `tracebed gc`."""

from __future__ import annotations

import click

from home import Home
from terminal import Group


@click.group(name="runs", cls=Group)
def runs_group() -> None:
    """Trainings that were run, here or elsewhere."""


@runs_group.command(name="compare")
@click.argument("a")
@click.argument("b")
@click.pass_obj
def runs_compare(home: Home, a: str, b: str) -> None:
    """Hold trainings A and B against each other: configuration, base, data, versions, curves, rates.

    Each is an attempt, the beginning of a checkpoint's hash or of a run's id, a checkpoint file, or a folder with
    config.json (or .toml) and *.log that somebody else left.
    """
    from provenance.trainings.comparison import compare_trainings
    from provenance.trainings.text import as_text
    from provenance.trainings.training import find_training

    click.echo(as_text(compare_trainings(home, find_training(home, a), find_training(home, b))))


@click.command(name="gc")
@click.option("--apply", is_flag=True, help="Remove it; without this nothing is removed.")
@click.option(
    "--older-than",
    "hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Leave alone what is younger, in hours.",
)
@click.pass_obj
def gc_command(home: Home, apply: bool, hours: float) -> None:
    """List what nothing refers to: old versions and artifacts that no kept number reaches.

    The newest version of everything and every version of a metric are kept, with all that their lineage leads to.
    Jobs, trainings and episodes are left alone; nothing is removed while runs or jobs are under way.
    """
    from provenance.garbage import find_garbage, remove, under_way

    found = find_garbage(home, 3600.0 * hours)
    for each in found:
        click.echo(f"{each.size_bytes / 1e6:10.3f} MB  {each.what}: {each.path}")
    total = f"{len(found)} of them, {sum(each.size_bytes for each in found) / 1e6:.1f} MB"
    if not apply:
        click.echo(f"{total}; nothing was removed (--apply removes them)")
        return
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        if busy := under_way(home, instance):
            listed = "\n".join(f"  - {each}" for each in busy)
            raise click.ClickException(
                f"nothing was removed: what is under way may read it; try again when it has ended:\n{listed}"
            )
    remove(home, found)
    click.echo(f"{total}, removed")
