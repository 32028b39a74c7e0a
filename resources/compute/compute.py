"""The compute resource: runs a workload as a job on a site and brings back what it reported.

Log and progress appear in the run while the job works. Success is exit code 0 AND a reported materialisation whose
content hash is that of the result file; everything else raises, with the end of the log.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from home import Home
from io_managers.artifacts import ArtifactStore
from io_managers.content import content_hash
from io_managers.table_io_manager import Rows
from io_managers.tables import TablePartition
from resources.compute.backends import backend_of
from resources.compute.interface import Ending, JobSpec, Needs, Status
from resources.compute.job_directory import JobDirectory, Launch, write_text
from resources.compute.messages import JobMessageReader, KeptContext
from resources.compute.running import JobRun
from resources.compute.sites import Site, load_sites

JOB_TAG, SITE_TAG, ROOT_RUN_TAG = "tracebed/job", "tracebed/site", "tracebed/root_run"
_LOG_TAIL_BYTES = 4000

Inputs = Mapping[str, TablePartition | Mapping[str, TablePartition]]


@dataclass(frozen=True)
class JobResult:
    """What a successful job brought back.

    Attributes
    ----------
    rows : the frame to publish, with the job's key and node.
    metadata : metadata that the workload reported.
    checks : results of asset checks that the workload ran.
    directory : the folder of the launch that counts, with further files.
    """

    rows: Rows
    metadata: Mapping[str, Any]
    checks: tuple[dg.AssetCheckResult, ...]
    directory: Path


class Compute(dg.ConfigurableResource):
    """Runs workloads on a site of `sites.toml`."""

    home: str = Field(default="", description="where everything is stored; empty: $TRACEBED_HOME")
    site: str = Field(default="", description="site of sites.toml; empty: as its [runs_on] says for the asset's group")

    needs: dict[str, Any] = Field(
        default={}, description="over what the asset needs: gpus, memory_gb, time_limit_s, environment, ..."
    )

    def home_folders(self) -> Home:
        """Where everything is stored: a launchpad that names only a site leaves it out."""
        return Home(Path(self.home)) if self.home else Home.from_env()

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        *,
        inputs: Inputs,
        params: Mapping[str, Any] | None = None,
        needs: Needs = Needs(),  # noqa: B008 - immutable
        on_end: Callable[[Path, Status | None], None] | None = None,
    ) -> Generator[dg.AssetCheckResult, None, JobResult]:
        """Run `python -m <module>` on the inputs and wait: ``result = yield from compute.run(...)`` in an asset.

        The same asset, partition, inputs and parameters in the same root run are the same job: a re-execution finds it
        where it is, also when the run that started it died.

        A job that fails may have reported checks first; those are yielded, so that they show, before the failure.

        ``on_end`` is called with the folder of the launch that counts and how the job ended (None where the run was
        interrupted) as soon as that is so: it keeps what must not be lost with a failure.

        Raises
        ------
        dagster.Failure
            When the job did not succeed: with its ending, its error, and the end of its log.
        """
        home = self.home_folders()
        site, needs = self._where_and_what(context, needs)
        extras = {
            "inputs": {name: _described(each) for name, each in inputs.items()},
            "params": dict(params or {}),
            "home": str(home.root),
        }
        job = JobDirectory(home.jobs / _job_key(context, module, site, extras))
        job.path.mkdir(parents=True, exist_ok=True)
        spec_extras = {"inputs": extras["inputs"], "params": extras["params"]}
        write_text(job.inputs, json.dumps(spec_extras, indent=1))
        job.record(_asked_by(context, module, site, job, needs))
        context.instance.add_run_tags(context.run_id, {JOB_TAG: job.path.name, SITE_TAG: site.name})
        with dg.open_pipes_session(
            context=context,
            context_injector=KeptContext(job),
            message_reader=JobMessageReader(job),
            extras=extras,
        ) as session:
            environment = {
                **session.get_bootstrap_env_vars(),
                **_thread_limits(needs.cpus),
                **site.variables,
                "PYTHONUNBUFFERED": "1",
                "MPLBACKEND": "Agg",
            }
            status = None
            try:
                status = self._follow(
                    context, home, site, job, JobSpec(job.path.name, job.path, module, needs, environment)
                )
            finally:
                if on_end:
                    launch = _launch(job)
                    on_end(launch.path if launch else job.path, status)
        if status.ending != Ending.SUCCEEDED:
            yield from _checks(session)
            raise _failure(module, job, status)
        return self._collect(module, job, session, status, ArtifactStore(home.artifacts))

    def _where_and_what(self, context: dg.AssetExecutionContext, needs: Needs) -> tuple[Site, Needs]:
        try:
            sites = load_sites()
            site = sites.site(self.site) if self.site else sites.for_group(context.asset_key.path[0])
            return site, needs.with_(self.needs)
        except ValueError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def _follow(
        self, context: dg.AssetExecutionContext, home: Home, site: Site, job: JobDirectory, spec: JobSpec
    ) -> Status:
        state = home.site(site.name)
        run = JobRun(
            job,
            site,
            backend_of(site, state),
            state,
            run=context.run_id,
            say=context.log.info,
            echo=_echo,
            was_cancelled=lambda: _is_cancelled(context),
        )
        return run.to_end(spec)

    def _collect(
        self, module: str, job: JobDirectory, session: dg.PipesSession, status: Status, artifacts: ArtifactStore
    ) -> JobResult:
        launch = _launch(job)
        reported = session.get_reported_results()
        results = [each for each in reported if isinstance(each, dg.MaterializeResult)]
        if launch is None or len(results) != 1 or not launch.result.exists():
            status = Status(Ending.USER_ERROR, f"exit code 0, but {len(results)} materialisations were reported")
            raise _failure(module, job, status)
        frame = pl.read_parquet(launch.result)
        version = results[0].data_version
        if version is None or version.value != content_hash(frame):
            raise _failure(module, job, Status(Ending.USER_ERROR, f"{launch.result} is not what the job reported"))
        for path in sorted(launch.artifacts.iterdir()):
            if artifacts.take(path) != path.name:
                raise _failure(module, job, Status(Ending.USER_ERROR, f"{path} does not hold what its name says"))
        directory = dg.MetadataValue.path(str(job.path))
        metadata = {**(results[0].metadata or {}), "job": job.path.name, "job_directory": directory}
        if status.node:
            metadata["node"] = status.node
        rows = Rows(frame, job_key=job.path.name, node=status.node, versions=launch.versions())
        return JobResult(rows, metadata, _checks(session), launch.path)


def root_run(context: dg.AssetExecutionContext) -> str:
    """The run that a chain of re-executions began with: what it started is found again by the others."""
    run = context.run
    return run.tags.get(ROOT_RUN_TAG) or run.root_run_id or run.run_id


def _is_cancelled(context: dg.AssetExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


def _launch(job: JobDirectory) -> Launch | None:
    numbers = job.submissions()
    return job.submission(numbers[-1]).launch() if numbers else None


def _checks(session: dg.PipesSession) -> tuple[dg.AssetCheckResult, ...]:
    return tuple(each for each in session.get_reported_results() if isinstance(each, dg.AssetCheckResult))


def _partition(context: dg.AssetExecutionContext) -> str:
    return context.partition_key if context.has_partition_key else ""


def _job_key(context: dg.AssetExecutionContext, module: str, site: Site, extras: Mapping[str, Any]) -> str:
    partition = _partition(context)
    decides = [root_run(context), context.asset_key.to_user_string(), partition, module, site.name, extras]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    readable = "-".join([*context.asset_key.path[1:], *partition.split("|")]).strip("-")
    return f"{readable}-{digest}"


def _asked_by(
    context: dg.AssetExecutionContext, module: str, site: Site, job: JobDirectory, needs: Needs
) -> dict[str, Any]:
    return {
        "key": job.path.name,
        "asset": context.asset_key.to_user_string(),
        "partition": _partition(context),
        "module": module,
        "site": site.name,
        "needs": asdict(needs),
        "run_id": context.run_id,
        "root_run_id": root_run(context),
        "created_at": datetime.now(UTC).isoformat(),
    }


def _described(each: TablePartition | Mapping[str, TablePartition]) -> dict[str, Any]:
    if isinstance(each, TablePartition):
        return {
            "asset": each.asset,
            "partition": each.partition,
            "data_version": each.data_version,
            "run_id": each.run_id,
            "address": str(each.address),
        }
    return {"partitions": {key: _described(value) for key, value in each.items()}}


def _thread_limits(cpus: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
    return {name: str(cpus) for name in names}


def _echo(printed: bytes) -> None:
    """Print what the job printed: Dagster captures it as the step's log."""
    sys.stdout.write(printed.decode(errors="replace"))
    sys.stdout.flush()


def _failure(module: str, job: JobDirectory, status: Status) -> dg.Failure:
    numbers = job.submissions()
    tail = job.submission(numbers[-1]).read_log(-_LOG_TAIL_BYTES).decode(errors="replace") if numbers else ""
    launch = _launch(job)
    error = (launch.error() if launch else None) or ""
    said = (
        error if status.ending == Ending.USER_ERROR and error else f"{status.ending}: {status.detail}. {error}".strip()
    )
    return dg.Failure(
        description=f"{module} did not succeed. {said}",
        metadata={
            "ending": str(status.ending),
            "detail": status.detail,
            "node": status.node or "",
            "job_directory": dg.MetadataValue.path(str(job.path)),
            "end_of_log": dg.MetadataValue.md(f"```\n{tail}\n```"),
        },
        allow_retries=False,
    )
