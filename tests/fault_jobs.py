"""What fault tests share: a site on the test cluster, jobs that do what is asked, and waiting for what they do."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resources.compute.backends import backend_of
from resources.compute.interface import Backend, Handle, JobSpec, Needs, State, Status
from resources.compute.job_directory import JobDirectory, SubmissionDirectory
from resources.compute.running import JobRun
from resources.compute.sites import Site

TESTS = str(Path(__file__).parent)
SMALL = Needs(cpus=1, memory_gb=0.2, disk_gb=0.0)


class Bench:
    """A site and a folder of jobs: submits probes, follows them, waits for them."""

    def __init__(self, folder: Path, site: Site):
        self.site, self.jobs, self.state = site, folder / "jobs", folder / "state"
        self.jobs.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.backend: Backend = backend_of(site, self.state)
        self.said: list[str] = []
        self.printed = b""

    def spec(self, name: str, *behaviour: Any, number: int = 1, needs: Needs = SMALL, **variables: str) -> JobSpec:
        """Submission ``number`` of a job that does what `fault_probe.py` says of ``behaviour``."""
        environment = {"PYTHONPATH": TESTS, "FAULT_BEHAVIOUR": json.dumps(behaviour), **variables}
        return JobSpec(f"{name}.{number}", self.jobs / name / str(number), "fault_probe", needs, environment, number)

    def submit(self, name: str, *behaviour: Any, **options: Any) -> Handle:
        return self.backend.submit(self.spec(name, *behaviour, **options))

    def status(self, handle: Handle) -> Status:
        return self.backend.poll([handle])[handle.key]

    def ended(self, handle: Handle, seconds: float = 120.0) -> Status:
        """Wait for the ending."""
        return until(lambda: status if (status := self.status(handle)).ending else None, seconds, f"{handle.key} ends")

    def running(self, handle: Handle, seconds: float = 60.0) -> SubmissionDirectory:
        """Wait until the workload works."""
        files = SubmissionDirectory(handle.directory)
        until(lambda: b"working" in files.read_log(0), seconds, f"{handle.key} works")
        return files

    def follow(self, name: str, *behaviour: Any, needs: Needs = SMALL, **variables: str) -> Status:
        """Follow a job to its end as a run does it, retries included."""
        spec = self.spec(name, *behaviour, needs=needs, **variables)
        run = JobRun(
            JobDirectory(self.jobs / name),
            self.site,
            self.backend,
            self.state,
            run="a-run",
            say=self.said.append,
            echo=self._echo,
            was_cancelled=lambda: False,
        )
        return run.to_end(JobSpec(name, self.jobs / name, spec.module, spec.needs, spec.environment))

    def _echo(self, printed: bytes) -> None:
        self.printed += printed


def until(asked: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := asked():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def slurm_site(cluster: Any, monkeypatch: Any, **settings: Any) -> Site:
    """A site on the test cluster; its commands are found through the environment."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    return Site(**{"name": "cluster", "scheduler": "slurm", "poll_s": 0.5, "partition": "gpu", **settings})


__all__ = ["SMALL", "Bench", "State", "slurm_site", "until"]
