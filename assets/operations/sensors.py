"""Reconciles runs and jobs after a process that followed a job has died."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.events import DagsterEventType

from home import Home
from resources.compute.backends import backend_of
from resources.compute.compute import ROOT_RUN_TAG, Compute
from resources.compute.interface import Ending, SiteUnavailable, Status
from resources.compute.job_directory import JobDirectory, open_jobs
from resources.compute.process import is_same, lives
from resources.compute.running import record_end
from resources.compute.sites import load_sites

_CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
_QUIET_S = 60.0
_LONGEST_START_S = 300.0
_LOST = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE)


def build_reconcile_runs(assets: Sequence[dg.AssetsDefinition]) -> dg.SensorDefinition:
    """The sensor, with the jobs that it may start: each holds assets of one partitioning."""
    alike: dict[str, list[dg.AssetKey]] = defaultdict(list)
    for asset in assets:
        alike[str(asset.partitions_def)] += asset.keys
    jobs = {f"follow_{number}": keys for number, keys in enumerate(alike.values())}
    job_of = {key: name for name, keys in jobs.items() for key in keys}

    @dg.sensor(
        jobs=[dg.define_asset_job(name, selection=keys) for name, keys in jobs.items()],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def reconcile_runs(context: dg.SensorEvaluationContext, compute: Compute) -> dg.SensorResult | dg.SkipReason:
        """For each job whose follower died: go on with it in a new run, or end it where its run was cancelled."""
        home = compute.home_folders()
        requests, said = [], []
        for job in open_jobs(home.jobs):
            follower = job.follower()
            if follower is None or lives(follower) is not False:
                continue
            run = context.instance.get_run_by_id(follower["run"])
            if run is None or run.status == dg.DagsterRunStatus.SUCCESS:
                job.mark_closed()
            elif run.status in _CANCELLED:
                said.append(_end(home, job))
                if run.status == dg.DagsterRunStatus.CANCELING:
                    context.instance.report_run_canceled(run, message="Its process died; its job was ended.")
            elif run.status in _LOST:
                requests.append(_follow_again(context.instance, job, run, job_of))
                said.append(f"job {job.path.name} is followed by a new run: the process of run {run.run_id} died")
        followed = {follower["run"] for job in open_jobs(home.jobs) if (follower := job.follower())}
        for run in _runs_without_process(context.instance, followed):
            context.instance.report_run_failed(run, message="The process of this run died.")
            requests += _again(run, job_of)
            said.append(f"the process of run {run.run_id} died while it followed no job")
        for line in said:
            context.log.info(line)
        skipped = dg.SkipReason("; ".join(said) or "nothing was lost")
        return dg.SensorResult(run_requests=requests) if requests else skipped

    return reconcile_runs


def _end(home: Home, job: JobDirectory) -> str:
    numbers = job.submissions()
    files = job.submission(numbers[-1]) if numbers else None
    handle = files.handle() if files else None
    site = load_sites().site(job.recorded()["site"])
    if files is not None and handle is not None:
        try:
            backend_of(site, home.site(site.name)).cancel(handle)
        except SiteUnavailable as unavailable:
            return f"job {job.path.name} of a cancelled run cannot be ended yet: {unavailable}"
        record_end(files, Status(Ending.CANCELLED, "its run was cancelled"))
    job.mark_closed()
    return f"job {job.path.name} was ended: its run was cancelled"


def _runs_without_process(instance: dg.DagsterInstance, followed: Collection[str]) -> Iterator[dg.DagsterRun]:
    """Runs that are said to go on but whose processes, as their own events name them, are gone, or never came."""
    yield from instance.get_runs(_quiet(dg.DagsterRunStatus.STARTING, _LONGEST_START_S))
    for run in instance.get_runs(_quiet(dg.DagsterRunStatus.STARTED, _QUIET_S)):
        events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        named = [(pid, event.timestamp) for event in events if (pid := _pid(event))]
        if run.run_id not in followed and named and not any(is_same(pid, at) for pid, at in named):
            yield run


def _quiet(status: dg.DagsterRunStatus, seconds: float) -> dg.RunsFilter:
    return dg.RunsFilter(statuses=[status], updated_before=datetime.now(UTC) - timedelta(seconds=seconds))


def _pid(event: dg.EventLogEntry) -> int | None:
    data = event.dagster_event.engine_event_data.metadata.get("pid") if event.dagster_event else None
    return int(str(data.value)) if data is not None else None


def _again(run: dg.DagsterRun, job_of: Mapping[dg.AssetKey, str]) -> list[dg.RunRequest]:
    """A new run of the same, where that is one asset; what several assets are made of is a user's to choose."""
    assets = list(run.asset_selection or ())
    if len(assets) != 1:
        return []
    return [_request(run, assets[0], run.tags.get("dagster/partition"), job_of)]


def _follow_again(
    instance: dg.DagsterInstance, job: JobDirectory, run: dg.DagsterRun, job_of: Mapping[dg.AssetKey, str]
) -> dg.RunRequest:
    asset = dg.AssetKey.from_user_string(job.recorded()["asset"])
    if run.status == dg.DagsterRunStatus.STARTED:
        instance.report_run_failed(
            run,
            message=f"The process of this run died. Its job {job.path.name} goes on, and another run follows it.",
        )
    return _request(run, asset, job.recorded()["partition"] or None, job_of)


def _request(
    run: dg.DagsterRun, asset: dg.AssetKey, partition: str | None, job_of: Mapping[dg.AssetKey, str]
) -> dg.RunRequest:
    root = run.tags.get(ROOT_RUN_TAG) or run.root_run_id or run.run_id
    return dg.RunRequest(
        run_key=f"{asset.to_user_string()} {partition} after {run.run_id}",
        job_name=job_of[asset],
        asset_selection=[asset],
        partition_key=partition,
        run_config=dict(run.run_config),
        tags={ROOT_RUN_TAG: root},
    )
