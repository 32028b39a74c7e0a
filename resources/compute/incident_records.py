"""What our own job directories know of a node: which launches were on it, when, and what the platform did then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from home import Home
from resources.compute.excluded import ExcludedNodes
from resources.compute.incident import Failure, LeftOut, Ran, Resubmission, Window
from resources.compute.interface import Ending
from resources.compute.job_directory import Launch, SubmissionDirectory, every_job


@dataclass(frozen=True)
class Submitted:
    """A submission of ours at the site; ``name`` is its key, which is also the name of a scheduler's job."""

    files: SubmissionDirectory
    number: int
    work: str

    @property
    def name(self) -> str:
        return f"{self.files.job.path.name}.{self.number}"

    @property
    def scheduler_job(self) -> str:
        """The scheduler's job id, or nothing."""
        return str((self.files.read_handle() or {}).get("job", ""))


def submissions(home: Home, site: str) -> list[Submitted]:
    """Every submission of this platform at a site."""
    jobs = [job for job in every_job(home.jobs) if job.recorded().get("site") == site]
    return [
        Submitted(job.submission(number), number, _work(job.recorded())) for job in jobs for number in job.submissions()
    ]


def launches_on(node: str, ours: Sequence[Submitted]) -> list[tuple[Submitted, Launch]]:
    """Launches on a node, oldest first; a node is named as it calls itself, or as we reach it."""
    found = [
        (each, launch)
        for each in ours
        for launch in each.files.launches()
        if node in (launch.started().get("node"), launch.started().get("host"), _reached(each))
    ]
    return sorted(found, key=lambda pair: int(pair[1].started().get("started_at", 0)))


def as_ran(submitted: Submitted, launch: Launch) -> Ran:
    """A launch in the terms of the analysis. Its end is when its exit file was written; a killed one has none."""
    ended = submitted.files.read_ended() or {}
    state = str(ended.get("ending", "RUNNING"))
    return Ran(
        job=launch.started().get("scheduler_job", "") or submitted.scheduler_job,
        step=launch.path.name,
        job_name=submitted.name,
        user=launch.path.owner(),
        ours=True,
        state=state,
        job_state=state,
        started_at=_started_at(launch),
        ended_at=_written(launch.path / "exit")
        or (None if state == Ending.NODE_FAIL else moment(ended.get("ended_at"))),
        gpus=len([gpu for gpu in launch.started().get("gpus", "").split(",") if gpu]),
        work=submitted.work,
    )


def reboots(
    node: str, launches: Sequence[Launch], boot_now: str, booted_at: datetime | None
) -> Iterator[tuple[Failure, Window]]:
    """Failures of a node without a scheduler, from the boot ids of our launches and of now.

    It failed between the last sign of life of one boot and the first of the next. Where the next boot is the present
    one, ``booted_at`` says when that was.
    """
    boots = [launch.started().get("boot", "") for launch in launches]
    for number, boot in enumerate(boots):
        following = boots[number + 1] if number + 1 < len(boots) else boot_now
        if not boot or not following or following == boot:
            continue
        alive = [time for each, at in zip(launches, boots, strict=True) if at == boot and (time := last_sign(each))]
        again = _started_at(launches[number + 1]) if number + 1 < len(launches) else booted_at
        if following == boot_now and booted_at and (again is None or booted_at < again):
            again = booted_at
        if alive and again:
            down = max(again, *alive)
            source = f"boot ids in the records of our jobs on {node}"
            yield Failure(down, down, "it was started anew: its boot id changed", "", source), Window(max(alive), down)


def last_sign(launch: Launch) -> datetime | None:
    """The last moment at which the launch is known to have lived, on the file system's clock."""
    times = (_written(launch.path / name) for name in ("started", "heartbeat", "exit"))
    return max((time for time in times if time), default=None)


def resubmissions(node: str, ours: Sequence[Submitted], window: Window, before: datetime | None) -> list[Resubmission]:
    """Jobs of ours that ended NODE_FAIL on the node after a window began, and what came of them."""
    found = []
    for each in ours:
        ended = each.files.read_ended() or {}
        at = moment(ended.get("ended_at"))
        if ended.get("ending") != Ending.NODE_FAIL or node not in (ended.get("node"), _node(each.files)):
            continue
        if at is None or at < window.start or (before is not None and at >= before):
            continue
        job = each.files.job
        number = next((other for other in job.submissions() if other > each.number), None)
        then = job.submission(number) if number is not None else None
        found.append(
            Resubmission(
                each.name,
                each.number,
                each.work,
                at,
                str(ended.get("detail", "")),
                number,
                _node(then) if then else "",
                str((then.read_ended() or {}).get("ending", "")) if then else "",
            )
        )
    return found


def left_out(node: str, folder: Path, window: Window, before: datetime | None) -> list[LeftOut]:
    """When the platform left the node out after a window began."""
    history = [each for each in ExcludedNodes(folder).history() if each.node == node and each.since >= window.start]
    return [
        LeftOut(each.since, each.until, each.reason, each.job)
        for each in history
        if before is None or each.since < before
    ]


def moment(written: object) -> datetime | None:
    """A time as our records have it: ISO 8601 (UTC where no zone is given), or Unix seconds."""
    if isinstance(written, str) and written:
        time = datetime.fromisoformat(written)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    return datetime.fromtimestamp(written, UTC) if isinstance(written, int | float) else None


def _node(files: SubmissionDirectory) -> str:
    launch = files.launch()
    ended = files.read_ended() or {}
    return str(ended.get("node") or (launch.started().get("node", "") if launch else ""))


def _reached(each: Submitted) -> str:
    return str((each.files.read_handle() or {}).get("node", ""))


def _work(recorded: Mapping[str, Any]) -> str:
    parts = [f"{name} {recorded[name]}" for name in ("asset", "partition") if recorded.get(name)]
    return ", ".join(parts)


def _started_at(launch: Launch) -> datetime | None:
    seconds = launch.started().get("started_at")
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else None


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
