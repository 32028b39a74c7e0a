"""`tracebed site check`: tries a site end to end, and says of each part what was found and what to do.

The last part is a job through the very way that assets take: a small workload with a preflight on the node.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from home import Home
from resources.compute.backends import backend_of
from resources.compute.interface import Ending, JobSpec, Needs, SiteUnavailable, SubmissionRefused
from resources.compute.job_directory import JobDirectory, SubmissionDirectory
from resources.compute.reach import Reach
from resources.compute.sites import Site, SiteError
from resources.compute.slurm_commands import Slurm

_JOB_LIMIT_S = 600.0
_SCHEDULER = ("sbatch", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class Found:
    """One thing that was tried: whether it works, what was found, and how to mend it."""

    what: str
    works: bool
    found: str
    cure: str = ""

    def line(self) -> str:
        """One line for a terminal."""
        sign = "ok    " if self.works else "FAILED"
        return f"{sign}  {self.what}: {self.found}" + (
            f"\n          -> {self.cure}" if not self.works and self.cure else ""
        )


def check_site(home: Home, site: Site, needs: Needs) -> Iterator[Found]:
    """Try everything that a job at this site meets, in its order; stops where the rest cannot work."""
    reach = site.reach()
    for step in (_reached, _home_shared, _scheduler):
        for found in _guarded(step, home, site, reach):
            yield found
            if not found.works:
                return
    nodes = [site.ssh.host, *site.nodes] if site.ssh and site.scheduler == "none" else [""]
    for node in nodes:
        for environment in ("default", *(name for name in site.environments if name != "default")):
            others = tuple(each for each in nodes if each != node)
            yield from _job(home, site, replace(needs, environment=environment), node, others)


def _guarded(
    step: Callable[[Home, Site, Reach], Iterator[Found]], home: Home, site: Site, reach: Reach
) -> Iterator[Found]:
    try:
        yield from step(home, site, reach)
    except SiteUnavailable as unavailable:
        yield Found(step.__doc__ or "", False, str(unavailable))


def _reached(home: Home, site: Site, reach: Reach) -> Iterator[Found]:
    """Reached."""
    begun = time.monotonic()
    done = reach.run(["uname", "-n"])
    yield Found("reached", done.code == 0, f"{done.out.strip()} ({reach.where}), {time.monotonic() - begun:.2f} s")


def _home_shared(home: Home, site: Site, reach: Reach) -> Iterator[Found]:
    """The home lies there."""
    token, path = uuid.uuid4().hex, home.site(site.name) / "seen"
    path.write_text(token)
    done = reach.run(["cat", str(path)])
    if done.out != token and done.out.endswith(token):
        greeting = done.out.removesuffix(token).strip()
        yield Found(
            "quiet shell",
            False,
            f"{greeting[:200]!r} before the answer to a command",
            "let its shell greet only people: [ -t 1 ]",
        )
    yield Found(
        "home is shared",
        done.out.endswith(token),
        f"{home.root} "
        + ("is the same there" if done.out.endswith(token) else f"is another or absent there: {done.said()}"),
        "put $TRACEBED_HOME on a file system that the site has at the same path",
    )
    locked = reach.run(["flock", "--timeout", "10", str(path), "true"])
    yield Found(
        "locks", locked.code == 0, "flock works there" if not locked.code else locked.said(), "mount it with locks"
    )
    code = reach.run(["test", "-s", str(site.root / "workloads" / "on_node.py")]).code == 0
    yield Found("code", code, f"{site.root}{'' if code else ' has no tracebed there'}", "mend `root` of the site")


def _scheduler(home: Home, site: Site, reach: Reach) -> Iterator[Found]:
    """Scheduler."""
    if site.scheduler != "slurm":
        return
    for name in (*_SCHEDULER, *(("sacct",) if site.accounting else ())):
        command = getattr(site.commands, name)
        done = reach.run([command, "--version"])
        yield Found(
            command, done.code == 0, done.said() if done.code else done.out.strip(), "mend `commands` of the site"
        )
    slurm = Slurm(site.commands, reach, site.accounting)
    yield Found("queue", True, f"{len(slurm.queue())} jobs of ours are known to the controller")
    if site.accounting:
        done = reach.run([site.commands.sacct, "--parsable2", "--noheader", "--starttime=now-1hour", "--format=JobID"])
        cure = "the accounting is down, or there is none: then say `accounting = false`"
        yield Found("accounting", done.code == 0, done.said() if done.code else "sacct answers", cure)
    if site.partition:
        done = reach.run([site.commands.scontrol, "show", "partition", site.partition])
        yield Found("partition", done.code == 0, site.partition if not done.code else done.said(), "mend `partition`")


def _job(home: Home, site: Site, needs: Needs, node: str, others: tuple[str, ...]) -> Iterator[Found]:
    """A job."""
    key = f"site-check-{uuid.uuid4().hex[:12]}"
    what = f"job ({needs.environment}{f' on {node}' if node else ''})"
    job = JobDirectory(home.jobs / key)
    spec = JobSpec(
        f"{key}.1", job.path / "1", "workloads.site_probe", replace(needs, time_limit_s=300), exclude_nodes=others
    )
    backend = backend_of(site, home.site(site.name))
    handle, begun = None, time.monotonic()
    try:
        handle = backend.submit(spec)
        submitted_s = time.monotonic() - begun
        while (status := backend.poll([handle])[handle.key]).ending is None:
            if time.monotonic() - begun > _JOB_LIMIT_S:
                yield Found(what, False, f"{status.state} after {_JOB_LIMIT_S:.0f} s: {status.detail}", str(job.path))
                return
            time.sleep(0.2)
    except (SiteUnavailable, SubmissionRefused, SiteError) as error:
        yield Found(what, False, str(error))
        return
    finally:
        if handle is not None and SubmissionDirectory(handle.directory).launch() is None:
            with suppress(SiteUnavailable):
                backend.cancel(handle)
    files = SubmissionDirectory(spec.directory)
    launch = files.launch()
    for check in (launch.preflight() or {}).get("checks", []) if launch else []:
        yield Found(f"  {check['name']}", check["passed"], check["found"], check["advice"])
    works = status.ending == Ending.SUCCEEDED
    tail = files.read_log(-1500).decode(errors="replace")
    took = f"submitted in {submitted_s:.2f} s, ended after {time.monotonic() - begun:.2f} s on {status.node}"
    yield Found(what, works, took if works else f"{status.ending}: {status.detail}", f"end of {files.log}:\n{tail}")
    if works and launch is not None:
        for name, value in json.loads((launch.path / "probe.json").read_text()).items():
            yield Found(f"  {name}", True, str(value))
