"""The compute resource: runs a workload as a job and brings back what it reported.

Log and progress appear in the run while the job works. Success is exit code 0 AND a reported materialisation whose
content hash is that of the result file; everything else raises, with the end of the log.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from home import Home
from io_managers.artifacts import ArtifactStore
from io_managers.content import content_hash
from io_managers.table_io_manager import Rows
from io_managers.tables import TablePartition
from resources.compute.interface import Backend, Ending, Handle, JobSpec, Needs, Status
from resources.compute.job_directory import JobDirectory
from resources.compute.local import LocalBackend
from resources.compute.messages import JobMessageReader

_POLL_S = 0.3
_LOG_TAIL_BYTES = 4000

Inputs = Mapping[str, TablePartition | Mapping[str, TablePartition]]


@dataclass(frozen=True)
class JobResult:
    """What a successful job brought back.

    Attributes
    ----------
    rows : the frame to publish, with the job's key.
    metadata : metadata that the workload reported.
    checks : results of asset checks that the workload ran.
    directory : the job directory, with further files.
    """

    rows: Rows
    metadata: Mapping[str, Any]
    checks: tuple[dg.AssetCheckResult, ...]
    directory: Path


class Compute(dg.ConfigurableResource):
    """Runs workloads on a site. The default site is this host."""

    home: str
    site: str = "local"

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

        A job that fails may have reported checks first; those are yielded, so that they show, before the failure.

        ``on_end`` is called with the job directory and how the job ended (None where the run was interrupted) as soon
        as that is so: it keeps what must not be lost with a failure.

        Raises
        ------
        dagster.Failure
            When the job did not succeed: with its ending, its error, and the end of its log.
        """
        home = Home(Path(self.home))
        extras = {
            "inputs": {name: _described(each) for name, each in inputs.items()},
            "params": dict(params or {}),
            "home": str(home.root),
        }
        key = _job_key(context, module, extras)
        files = JobDirectory(home.jobs / key)
        files.path.mkdir(parents=True, exist_ok=True)
        spec_extras = {"inputs": extras["inputs"], "params": extras["params"]}
        (files.path / "inputs.json").write_text(json.dumps(spec_extras, indent=1))
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesFileContextInjector(str(files.context)),
            message_reader=JobMessageReader(files.messages),
            extras=extras | {"directory": str(files.path)},
        ) as session:
            environment = {
                **session.get_bootstrap_env_vars(),
                **_thread_limits(needs.cpus),
                "PYTHONUNBUFFERED": "1",
                "MPLBACKEND": "Agg",
            }
            spec = JobSpec(key, files.path, module, needs, environment)
            context.log.info(f"job {key}: {module} on site {self.site}, in {files.path}")
            status = None
            try:
                status = self._drive(spec)
            finally:
                if on_end:
                    on_end(files.path, status)
        if status.ending != Ending.SUCCEEDED:
            yield from _checks(session)
            raise _failure(spec, status)
        return self._collect(spec, session, ArtifactStore(home.artifacts))

    def _backend(self) -> Backend:
        if self.site == "local":
            return LocalBackend()
        raise dg.DagsterInvalidConfigError(
            f"there is no site {self.site!r}; the sites are: local", errors=[], config_value=self.site
        )

    def _drive(self, spec: JobSpec) -> Status:
        backend = self._backend()
        handle = backend.submit(spec)
        offset = 0
        ended = False
        try:
            while True:
                status = backend.poll([handle])[handle.key]
                offset += _echo(backend, handle, offset)
                if status.ending is not None:
                    ended = True
                    return status
                time.sleep(_POLL_S)
        finally:
            if not ended:  # the run was cancelled or its process is being ended: nobody would read this job's result
                backend.cancel(handle)

    def _collect(self, spec: JobSpec, session: dg.PipesSession, artifacts: ArtifactStore) -> JobResult:
        files = JobDirectory(spec.directory)
        reported = session.get_reported_results()
        results = [each for each in reported if isinstance(each, dg.MaterializeResult)]
        if len(results) != 1 or not files.result.exists():
            status = Status(Ending.USER_ERROR, f"exit code 0, but {len(results)} materialisations were reported")
            raise _failure(spec, status)
        frame = pl.read_parquet(files.result)
        version = results[0].data_version
        if version is None or version.value != content_hash(frame):
            raise _failure(spec, Status(Ending.USER_ERROR, f"{files.result} is not what the job reported"))
        for path in sorted(files.artifacts.iterdir()):
            if artifacts.take(path) != path.name:
                raise _failure(spec, Status(Ending.USER_ERROR, f"{path} does not hold what its name says"))
        directory = dg.MetadataValue.path(str(spec.directory))
        metadata = {**(results[0].metadata or {}), "job": spec.key, "job_directory": directory}
        return JobResult(Rows(frame, job_key=spec.key), metadata, _checks(session), spec.directory)


def _checks(session: dg.PipesSession) -> tuple[dg.AssetCheckResult, ...]:
    return tuple(each for each in session.get_reported_results() if isinstance(each, dg.AssetCheckResult))


def _job_key(context: dg.AssetExecutionContext, module: str, extras: Mapping[str, Any]) -> str:
    partition = context.partition_key if context.has_partition_key else ""
    decides = [context.run_id, context.asset_key.to_user_string(), partition, module, extras]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    readable = "-".join([*context.asset_key.path[1:], *partition.split("|")]).strip("-")
    return f"{readable}-{digest}"


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


def _echo(backend: Backend, handle: Handle, offset: int) -> int:
    """Print what the job printed since ``offset`` (Dagster captures it as the step's log); returns its length."""
    fresh = backend.logs(handle, offset)
    if fresh:
        sys.stdout.write(fresh.decode(errors="replace"))
        sys.stdout.flush()
    return len(fresh)


def _failure(spec: JobSpec, status: Status) -> dg.Failure:
    files = JobDirectory(spec.directory)
    with files.log.open("rb") as stream:
        stream.seek(max(0, files.log.stat().st_size - _LOG_TAIL_BYTES))
        tail = stream.read().decode(errors="replace")
    error = files.error.read_text() if files.error.exists() else f"{status.ending}: {status.detail}"
    return dg.Failure(
        description=f"{spec.module} did not succeed. {error}",
        metadata={
            "ending": str(status.ending),
            "detail": status.detail,
            "job_directory": dg.MetadataValue.path(str(spec.directory)),
            "end_of_log": dg.MetadataValue.md(f"```\n{tail}\n```"),
        },
        allow_retries=False,
    )
