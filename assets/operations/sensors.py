"""Reconciles runs and jobs after a process that followed a job has died."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEventType

from home import Home
from resources.compute.backends import backend_of
from resources.compute.compute import ROOT_RUN_TAG, Compute
from resources.compute.interface import Backend, SiteUnavailable
from resources.compute.job_directory import JobDirectory, open_jobs
from resources.compute.process import is_same, lives
from resources.compute.running import end_submission
from resources.compute.sites import SiteError, load_sites

_CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
MOST_FOLLOWERS = 5
"""Runs that the sensor starts for one root run."""
_LAUNCHED_TAG = ".dagster/grpc_info"
_LONGEST_TICK_S = 20.0  # of the 60 s that Dagster gives a sensor
_SILENT_S = 600.0
_QUIET_S = 60.0
_LONGEST_START_S = 300.0
_LOST = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE)


def build_reconcile_runs(assets: Sequence[dg.AssetsDefinition]) -> dg.SensorDefinition:
    """The sensor, with the jobs that it may start: each holds assets of one partitioning."""
    jobs: dict[str, list[dg.AssetKey]] = defaultdict(list)
    for asset in assets:
        jobs[f"follow_{_partitioning(asset)}"] += asset.keys
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
        begun = time.monotonic()
        for job in open_jobs(home.jobs):
            try:
                request, told = _reconciled(context.instance, home, job, job_of, time.monotonic() - begun)
            except (KeyError, SiteError, SiteUnavailable) as error:  # one job that cannot be helped is no reason
                request, told = None, f"job {job.path.name} cannot be reconciled yet: {error!r}"
            requests += [request] if request else []
            said += [told] if told else []
        followed = {follower["run"] for job in open_jobs(home.jobs) if (follower := job.follower())}
        for run in _runs_without_process(context.instance, followed):
            again = _again(context.instance, run, job_of)
            context.instance.report_run_failed(run, message="The process of this run died.")
            requests += again
            said.append(f"the process of run {run.run_id} died while it followed no job")
        for line in said:
            context.log.info(line)
        skipped = dg.SkipReason("; ".join(said) or "nothing was lost")
        return dg.SensorResult(run_requests=requests) if requests else skipped

    return reconcile_runs


def _partitioning(asset: dg.AssetsDefinition) -> str:
    match asset.partitions_def:
        case dg.DynamicPartitionsDefinition(name=str(name)):
            return name
        case dg.MultiPartitionsDefinition():
            return "pairs"
        case _:
            return "unpartitioned"


def _reconciled(
    instance: dg.DagsterInstance,
    home: Home,
    job: JobDirectory,
    job_of: Mapping[dg.AssetKey, str],
    spent_s: float,
) -> tuple[dg.RunRequest | None, str | None]:
    """What to start for an open job, and what to say of it."""
    follower = job.follower()
    if follower is None or not _is_dead(job, follower):
        return None, None
    run = instance.get_run_by_id(follower["run"])
    if run is not None and run.status == dg.DagsterRunStatus.SUCCESS:
        job.mark_closed()
    elif run is None or run.status in _CANCELLED:
        if spent_s > _LONGEST_TICK_S:
            return None, f"job {job.path.name} is to be ended at the next look"
        if numbers := job.submissions():
            end_submission(_backend(home, job), job.submission(numbers[-1]))
        job.mark_closed()
        if run is not None and run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message="Its process died; its job was ended.")
        return None, f"job {job.path.name} was ended: its run was {'cancelled' if run else 'deleted'}"
    elif run.status in _LOST and not (run.status == dg.DagsterRunStatus.STARTED and _process_lives(instance, run)):
        request = _follow_again(instance, job, run, job_of)
        return request, (
            f"job {job.path.name} is followed by a new run: the process of run {run.run_id} died"
            if request
            else f"job {job.path.name} was followed {MOST_FOLLOWERS} times and is left to its user"
        )
    return None, None


def _is_dead(job: JobDirectory, follower: Mapping[str, Any]) -> bool:
    """Whether nobody follows the job: on another host, a follower shows that it lives."""
    living = lives(follower)
    return job.followed_s_ago() > _SILENT_S if living is None else not living


def _backend(home: Home, job: JobDirectory) -> Backend:
    site = load_sites().site(job.recorded()["site"])
    return backend_of(site, home.site(site.name))


def _runs_without_process(instance: dg.DagsterInstance, followed: Collection[str]) -> Iterator[dg.DagsterRun]:
    """Runs that are said to go on but whose processes, as their own events name them, are gone, or never came.

    Only those that the daemon launched: others belong to a process on some host.
    """
    yield from instance.get_runs(_quiet(dg.DagsterRunStatus.STARTING, _LONGEST_START_S))
    for run in instance.get_runs(_quiet(dg.DagsterRunStatus.STARTED, _QUIET_S)):
        if run.run_id not in followed and _LAUNCHED_TAG in run.tags and not _process_lives(instance, run):
            yield run


def _process_lives(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether one of the processes that the run's events name lives; also where they name none."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    named = [(pid, event.timestamp) for event in events if (pid := _pid(event))]
    return not named or any(is_same(pid, at) for pid, at in named)


def _quiet(status: dg.DagsterRunStatus, seconds: float) -> dg.RunsFilter:
    return dg.RunsFilter(statuses=[status], updated_before=datetime.now(UTC) - timedelta(seconds=seconds))


def _pid(event: dg.EventLogEntry) -> int | None:
    data = event.dagster_event.engine_event_data.metadata.get("pid") if event.dagster_event else None
    return int(str(data.value)) if data is not None else None


def _again(instance: dg.DagsterInstance, run: dg.DagsterRun, job_of: Mapping[dg.AssetKey, str]) -> list[dg.RunRequest]:
    """A new run of the same, where that is one asset; what several assets are made of is a user's to choose."""
    assets = list(run.asset_selection or ())
    if len(assets) != 1 or assets[0] not in job_of:
        return []
    request = _request(instance, run, assets[0], run.tags.get("dagster/partition"), job_of)
    return [request] if request else []


def _follow_again(
    instance: dg.DagsterInstance, job: JobDirectory, run: dg.DagsterRun, job_of: Mapping[dg.AssetKey, str]
) -> dg.RunRequest | None:
    asset, partition = dg.AssetKey.from_user_string(job.recorded()["asset"]), job.recorded()["partition"]
    request = _request(instance, run, asset, partition or None, job_of)
    if request and run.status == dg.DagsterRunStatus.STARTED:
        said = f"The process of this run died. Its job {job.path.name} goes on, and another run follows it."
        instance.report_run_failed(run, message=said)
    return request


def _request(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    asset: dg.AssetKey,
    partition: str | None,
    job_of: Mapping[dg.AssetKey, str],
) -> dg.RunRequest | None:
    """Another run of the same root, unless there have been too many: whatever ends them would end the next one too."""
    root = run.tags.get(ROOT_RUN_TAG) or run.root_run_id or run.run_id
    followers = instance.get_runs_count(dg.RunsFilter(tags={ROOT_RUN_TAG: root}))
    if followers >= MOST_FOLLOWERS:
        return None
    return dg.RunRequest(
        run_key=f"{asset.to_user_string()} {partition} of {root}, {followers + 1}",
        job_name=job_of[asset],
        asset_selection=[asset],
        partition_key=partition,
        run_config=dict(run.run_config),
        tags={ROOT_RUN_TAG: root},
    )
