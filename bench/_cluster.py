"""What `bench/jobs.py` stands on: a test cluster with its login node, sites on it, and counters of what is called.

The commands of the scheduler are reached through small scripts that write their name down before they become the real
command: always through SSH (both sides of a comparison alike), and on this host where calls are counted.
"""

import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster import SlurmCluster, Sshd  # noqa: E402
from cluster.folders import short_folder  # noqa: E402
from cluster.processes import binary  # noqa: E402

from home import Home  # noqa: E402
from resources.compute.sites import Site, load_sites  # noqa: E402

NUMBERS = count(1)
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
BARE = ("--partition=gpu", "--mem=205M", "--output=/dev/null", "--chdir=/")
_RANDOM = random.Random(0)
_SESSION, _CONNECTION = "Starting session: ", "Accepted publickey "
_PROBE = """\
import time
import polars as pl
from workloads.job import open_job

with open_job() as job:
    time.sleep(job.params["seconds"])
    job.publish(pl.DataFrame({"answer": [42]}))
"""
_SITES = """\
[sites.local]
variables = {{ PYTHONPATH = \"{probes}\" }}
poll_s = 1.0
[sites.host]
variables = {{ PYTHONPATH = \"{probes}\" }}
scheduler = "slurm"
partition = "gpu"
[sites.host_counted]
variables = {{ PYTHONPATH = \"{probes}\" }}
scheduler = "slurm"
partition = "gpu"
commands = {commands}
[sites.login]
variables = {{ PYTHONPATH = \"{probes}\" }}
scheduler = "slurm"
partition = "gpu"
ssh = {{ host = "login", user = "{user}", config = "{config}" }}
[sites.node]
variables = {{ PYTHONPATH = \"{probes}\" }}
ssh = {{ host = "node", user = "{user}", config = "{config}" }}
"""


@dataclass(frozen=True)
class Testbed:
    """A cluster, its login node, and a home on them."""

    folder: Path
    slurm: SlurmCluster
    sshd: Sshd
    home: Home

    def site(self, name: str, **settings: Any) -> Site:
        """local, host, host_counted (through the scripts), login (Slurm through SSH) or node (SSH, no scheduler)."""
        return load_sites().site(name).model_copy(update=settings)

    def counts(self) -> Counter[str]:
        """Calls of every scheduler command, and SSH connections and sessions, since the start."""
        calls = self.folder / "calls"
        found = Counter(calls.read_text().split() if calls.exists() else ())
        log = self.sshd.log.read_text(errors="replace")
        return found | Counter({"connections": log.count(_CONNECTION), "sessions": log.count(_SESSION)})


def missing() -> str | None:
    """Why there can be no test cluster here, or None."""
    return SlurmCluster.missing() or Sshd.missing()


@contextmanager
def open_testbed() -> Iterator[Testbed]:
    """Start everything, point this process's environment at it, and remove it at the end."""
    with short_folder() as folder, SlurmCluster(folder / "s") as slurm:
        scripts = _counting_scripts(folder)
        environment = slurm.environment()
        # A session of sshd has no other PATH than this one.
        probes = folder / "probes"
        # Nor does it read this machine's ~/.bashrc, which takes longer than what is measured.
        remote = environment | {"PATH": f"{scripts}:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(probes)}
        remote |= {"HOME": str(folder)}
        with Sshd(folder / "ssh", environment=remote) as sshd:
            commands = ", ".join(f'{name} = "{scripts / name}"' for name in COMMANDS[:-1])
            sites = folder / "sites.toml"
            sites.write_text(
                _SITES.format(commands=f"{{ {commands} }}", user=sshd.user, config=sshd.ssh_config, probes=probes)
            )
            probes.mkdir()
            (probes / "bench_probe.py").write_text(_PROBE)
            os.environ |= environment | {"TRACEBED_SITES": str(sites), "PYTHONPATH": str(probes)}
            try:
                yield Testbed(folder, slurm, sshd, Home(folder / "home").ensure())
            finally:
                _close_shared_connections()


def _close_shared_connections() -> None:
    for name in ("login", "node"):
        host = load_sites().site(name).ssh
        if host is not None and host.reach().socket.exists():
            reach = host.reach()
            close = [*reach.command()[:-1], "-O", "exit", reach.host]
            subprocess.run(close, capture_output=True, timeout=30, check=False)
            shutil.rmtree(reach.socket.parent, ignore_errors=True)


def _counting_scripts(folder: Path) -> Path:
    scripts = folder / "counted"
    scripts.mkdir()
    for name in COMMANDS:
        script = scripts / name
        script.write_text(f'#!/bin/sh\necho {name} >>{folder / "calls"}\nexec {binary(name)} "$@"\n')
        script.chmod(0o755)
    return scripts


class Child:
    """A process that measures: a line of JSON goes in, one comes out; its errors go to a log."""

    SIGN = "measured: "

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | dict(environment or {}),
            )

    def ask(self, **what: Any) -> dict[str, float]:
        """Wall and CPU seconds of what was asked for.

        Raises
        ------
        RuntimeError
            With the end of its log, when it has ended instead.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(self.SIGN):
                return json.loads(line.removeprefix(self.SIGN))
        raise RuntimeError(" ".join(self._log.read_text(errors="replace").split())[-700:])

    def close(self) -> None:
        """Let it end as a process ends that has nothing left to do."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of every way, one after the other in every round, after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            any_phase()
            began_s = time.perf_counter()
            way()
            if number:
                taken[name].append(time.perf_counter() - began_s)
    return taken


def any_phase() -> None:
    """Wait up to a second, at random: Slurm starts jobs about once a second, and nobody is to be in step with it."""
    time.sleep(_RANDOM.random())


def median_and_range(values: Sequence[float], digits: int = 2) -> str:
    """`1.23 (1.20-1.31)`."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def verdict(measured: float, aim: float) -> str:
    """The aim, and whether it was met."""
    return f"{aim:g}, {'met' if measured <= aim else 'MISSED'}"


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def bare(command: str, *options: str) -> str:
    """Submit a command with nothing around it; returns the job's id."""
    done = subprocess.run(
        ["sbatch", "--parsable", *BARE, *options, f"--wrap={command}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def bare_until_file(testbed: Testbed, command: str) -> None:
    """Bare sbatch whose end is seen by a file within 10 ms: `--wait` itself looks only every few seconds."""
    ended = testbed.folder / f"ended-{next(NUMBERS)}"
    bare(f"{command}; : >{ended}")
    while not ended.exists():
        time.sleep(0.01)


class Follower:
    """Follows trivial jobs on a site as a run does, and remembers how long each stage took, s."""

    def __init__(self, testbed: Testbed, site: str):
        from fault_jobs import Bench

        self.bench = Bench(testbed.folder / "followed" / site, testbed.site(site))
        self.stages: list[list[float]] = []

    def follow(self) -> None:
        """Follow one job to its end."""
        from resources.compute.job_directory import SubmissionDirectory

        name = f"trivial-{next(NUMBERS)}"
        (self.bench.jobs / name).mkdir()
        began = time.time()
        status = self.bench.follow(name, "exit", 0)
        ended = time.time()
        assert status.ending == "SUCCEEDED", status
        files = SubmissionDirectory(self.bench.jobs / name / "1")
        launch = files.launch()
        assert launch is not None
        written = [files.path / "handle.json", *(launch.path / each for each in ("started", "working", "exit"))]
        moments = [began, *(path.stat().st_mtime for path in written), ended]
        self.stages.append([after - before for before, after in pairwise(moments)])


def start_ours(testbed: Testbed) -> Child:
    """The process that materialises assets with this platform."""
    command = [sys.executable, "-W", "ignore", __file__, str(testbed.home.root)]
    return Child(command, testbed.folder / "ours.log", {"PYTHONPATH": f"{testbed.folder / 'probes'}:{ROOT}"})


def main(home: Path) -> None:
    """Child process: a materialisation for every line that comes in, answered with its seconds."""
    import dagster as dg

    from resources.compute.compute import Compute

    @dg.asset
    def plain() -> None:
        """So that what is measured is not the first that Dagster does."""

    assert dg.materialize([plain]).success
    for line in sys.stdin:
        asked = json.loads(line)
        seconds, site = asked["seconds"], asked["site"]

        @dg.asset
        def probe(context: dg.AssetExecutionContext, compute: Compute):
            result = yield from compute.run(context, "bench_probe", inputs={}, params={"seconds": seconds})  # noqa: B023
            yield dg.MaterializeResult(metadata=result.metadata)

        used_s, began_s = cpu_s(), time.perf_counter()
        outcome = dg.materialize([probe], resources={"compute": Compute(home=str(home), site=site)})
        wall_s = time.perf_counter() - began_s
        assert outcome.success
        print(Child.SIGN + json.dumps({"wall_s": wall_s, "cpu_s": cpu_s() - used_s}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
