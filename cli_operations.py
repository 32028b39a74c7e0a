"""Commands about where work runs and what became of it: `tracebed site`, `tracebed jobs`, `tracebed incident`."""

from __future__ import annotations

import os
import sys

import click

from home import Home
from terminal import Group, print_frame


@click.group(name="site", cls=Group)
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
    print_frame(pl.DataFrame(rows))


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


@click.command(name="jobs")
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
    print_frame(frame.select(*what, *(used if usage else [*moments, "detail"]), "key").head(limit))
    click.echo(f"{min(limit, frame.height)} of {frame.height} submissions; times are UTC")


@click.command(name="incident")
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
