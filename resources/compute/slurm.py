"""The Slurm backend: a job is a batch job whose name is its key.

Submission is idempotent: under a lock that the sbatch command itself holds until it ends, the handle is looked for,
then the scheduler is asked for a job of that name, and only then is one submitted. After any error the scheduler is
asked first; nothing is ever submitted blindly a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from resources.compute import slurm_commands
from resources.compute.endings import Seen
from resources.compute.interface import (
    Handle,
    JobSpec,
    SiteUnavailable,
    State,
    Status,
    SubmissionRefused,
)
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.patience import Patience
from resources.compute.polling import poll
from resources.compute.sites import Site
from resources.compute.slurm_commands import Slurm, SubmitError
from resources.compute.snapshot import Snapshot
from resources.compute.submitting import submit_once

_NO_SUCH_NODES = "node configuration is not available"
_CLOCKS_DIFFER = timedelta(days=1)


class SlurmBackend:
    """Runs jobs through Slurm; ``state`` is a folder for what the processes of this host share about the site."""

    def __init__(self, site: Site, state: Path):
        self.site = site
        self.slurm = Slurm(site.commands, site.reach(), site.accounting)
        self._snapshot = Snapshot(state, site.poll_s, self.slurm.seen)
        self._patience = Patience()

    def submit(self, spec: JobSpec) -> Handle:
        """Submit the job unless it was submitted before; see `Backend.submit`."""

        def ask(files: SubmissionDirectory, lock: int) -> Mapping[str, Any]:
            job = self._job(files, spec, lock)
            return {"reference": job, "job": job}

        return submit_once(spec, ask)

    def _job(self, files: SubmissionDirectory, spec: JobSpec, lock: int) -> str:
        """The id of the job of this name: one that was asked for before, or a new one."""
        return (self._find(files, spec.key) if files.read_intent() else None) or self._submit(files, spec, lock)

    def _submit(self, files: SubmissionDirectory, spec: JobSpec, lock: int) -> str:
        if files.read_intent() is None:
            command = [*self.site.command(spec.needs.environment), "-m", "workloads.on_node", spec.module]
            limit_s = None if _can_warn(self.site) else spec.needs.time_limit_s or self.site.time_limit_s
            files.prepare(spec, command, self.site.root, limit_s, self.site.warn_before(limit_s))
            files.write_intent({"name": spec.key})
        try:
            outcome = self._ask_for_job(spec, files, lock)
        except SiteUnavailable as unavailable:
            outcome = SubmitError(str(unavailable), temporary=True)
        if isinstance(outcome, str):
            return outcome
        if (job := self._find(files, spec.key)) is not None:
            return job
        if spec.exclude_nodes and _NO_SUCH_NODES in outcome.said:  # too few are left: better a doubtful one than none
            return self._submit(files, replace(spec, exclude_nodes=()), lock)
        if outcome.temporary:
            raise SiteUnavailable(f"site {self.site.name} takes no job at the moment: {outcome.said}")
        raise SubmissionRefused(
            f"site {self.site.name} refused the job: {outcome.said}. Look at its entry in sites.toml, and at what the "
            f"asset needs ({spec.needs})"
        )

    def _ask_for_job(self, spec: JobSpec, files: SubmissionDirectory, lock: int) -> str | SubmitError:
        return self.slurm.submit(sbatch_options(self.site, spec), str(files.script), hold=[lock])

    def _find(self, files: SubmissionDirectory, key: str) -> str | None:
        """The job of this name, if there is one: launches tell first, then the controller, then its accounting."""
        launched = [job for launch in files.launches() if (job := launch.started().get("scheduler_job"))]
        if launched:  # Slurm may have forgotten it
            return launched[-1]
        queued = [job for job, seen in self.slurm.queue(name=key).items() if not _was_refused(seen)]
        if queued:
            return max(queued, key=int)
        if not self.site.accounting:
            return None
        intent = files.read_intent()
        since = datetime.fromisoformat(intent["at"]) if intent else datetime.now(UTC)
        asked_since = (since - _CLOCKS_DIFFER).replace(tzinfo=None)
        rows = self.slurm.account_by_name(key, asked_since.isoformat(timespec="seconds"))
        return max((row.job for row in rows), key=int, default=None)

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job: exit files first, then one question to Slurm for the others."""
        return poll(handles, self._snapshot, self._patience)

    def cancel(self, handle: Handle) -> None:
        """`scancel` the job."""
        SubmissionDirectory(handle.directory).mark_cancelled()
        self.slurm.cancel(handle.key)

    def logs(self, handle: Handle, offset: int) -> bytes:
        """What the job printed from byte ``offset`` on."""
        return SubmissionDirectory(handle.directory).read_log(offset)

    def usage(self, handles: Sequence[Handle]) -> Mapping[str, Mapping[str, Any]]:
        """Resources from sacct, where the site keeps account."""
        if not self.site.accounting:
            return {}
        rows = self.slurm.account([handle.reference for handle in handles])
        of_job = {handle.key: [row for row in rows if row.job == handle.reference] for handle in handles}
        return {key: slurm_commands.usage(each) for key, each in of_job.items() if slurm_commands.is_final(each)}


def sbatch_options(site: Site, spec: JobSpec) -> list[str]:
    """Options of sbatch for one job at one site."""
    limit_s = spec.needs.time_limit_s or site.time_limit_s
    return [
        "--no-requeue",
        "--open-mode=append",
        "--dependency=singleton",
        "--kill-on-invalid-dep=yes",
        f"--output={_plain(spec.directory)}/log",
        *([f"--signal=B:USR1@{site.warn_before(limit_s)}"] if _can_warn(site) else []),
        *allocation_options(site, spec),
    ]


def _was_refused(seen: Seen) -> bool:
    """A submission that Slurm refuses may leave a job behind that failed before it had a node (BadConstraints)."""
    return seen.state == State.ENDED and seen.word == "FAILED" and seen.node is None


def _can_warn(site: Site) -> bool:
    """Slurm signals the batch shell before the time limit only where its command is called sbatch (measured).

    Elsewhere `launch.sh` keeps the time itself, as on hosts without a scheduler.
    """
    return Path(site.commands.sbatch).name == "sbatch"


def allocation_options(site: Site, spec: JobSpec) -> list[str]:
    """What is asked for, for a batch job and an allocation alike."""
    needs = spec.needs
    limit_s = needs.time_limit_s or site.time_limit_s
    wanted = {
        "--job-name": spec.key,
        "--comment": spec.key,
        "--chdir": str(site.root),
        "--partition": site.partition,
        "--account": site.account,
        "--cpus-per-task": str(needs.cpus),
        "--mem": f"{max(1, round(1024 * needs.memory_gb))}M",
        "--time": f"0:{limit_s}" if limit_s else None,
        "--exclude": ",".join(spec.exclude_nodes) or None,
    }
    gpus = [site.gpu_request.format(gpus=needs.gpus)] if needs.gpus else []
    return [f"{name}={value}" for name, value in wanted.items() if value] + gpus + list(site.options)


def _plain(path: Path) -> Path:
    if "%" in str(path) or "\\" in str(path):
        raise SubmissionRefused(f"Slurm would read a pattern in {path}; move the home to a path without % and \\")
    return path
