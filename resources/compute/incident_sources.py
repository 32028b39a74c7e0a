"""Collects what is known of a failed node: from Slurm and its accounting, or, without a scheduler, from our records.

Whatever cannot be asked is said in the report, and never taken for "nobody was there".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from home import Home
from resources.compute import incident_records as records
from resources.compute.incident import (
    Failure,
    Incident,
    IncidentError,
    Ran,
    Window,
    choose_failure,
    failure_window,
    joined,
    judge_all,
)
from resources.compute.incident_report import moment
from resources.compute.incident_slurm import (
    failures_of_events,
    failures_of_jobs,
    named_values,
    node_facts,
    node_failure,
    ran_on,
    seconds,
)
from resources.compute.interface import SiteUnavailable
from resources.compute.sites import Site
from resources.compute.slurm_commands import AccountRow, Slurm

_SEARCHED = timedelta(days=30)
_BEFORE, _AFTER = timedelta(hours=24), timedelta(hours=1)
_SLURMD_TIMEOUT_S, _MESSAGE_TIMEOUT_S = 300.0, 10.0  # Slurm's own defaults
_SEES_EVERYONE = {"Operator", "Administrator"}


def investigate(home: Home, site: Site, node: str, at: datetime | None = None) -> Incident:
    """The last failure of a node, or the last one that was declared by ``at``, with who was there.

    Raises
    ------
    IncidentError
        When the site has no such node, or no failure of it is known.
    SiteUnavailable
        When neither the scheduler nor its accounting can be asked.
    """
    if at is not None and at.tzinfo is None:
        raise IncidentError(f"found the time {at.isoformat()} without a zone; give one, such as {at.isoformat()}+00:00")
    ours = records.submissions(home, site.name)
    if site.scheduler == "slurm":
        return _with_slurm(home, site, node, at, ours)
    return _without_scheduler(home, site, node, at, ours)


@dataclass
class _Cluster:
    """What Slurm said, and the sentences about what it did not say."""

    node: str
    slurm: Slurm
    config: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    accounting: bool = False
    controller_said: str = ""


def _with_slurm(home: Home, site: Site, node: str, at: datetime | None, ours: Sequence[records.Submitted]) -> Incident:
    until = at or datetime.now(UTC)
    cluster = _Cluster(node, Slurm(site.commands, site.reach(), site.accounting))
    _ask_controller(cluster, site)
    _ask_accounting(cluster, site, until)
    failure = choose_failure(cluster.failures, at)
    if failure is None:
        raise IncidentError(_no_failure(site, node, at, cluster.failures, cluster.facts, cluster.limits))
    timeout_s = seconds(cluster.config.get("SlurmdTimeout"), _SLURMD_TIMEOUT_S)
    message_s = seconds(cluster.config.get("MessageTimeout"), _MESSAGE_TIMEOUT_S)
    window = failure_window(failure.down, timeout_s, message_s)
    if failure.noticed:
        because = (
            f"Slurm declares a silent node down up to 5/3 x SlurmdTimeout ({timeout_s:.0f} s) + 2 x MessageTimeout "
            f"({message_s:.0f} s) after its last answer"
        )
    else:
        because = "so it would be had Slurm itself noticed, but it was declared down otherwise"
        cluster.limits.append(
            "When the node failed: it was declared down by a person or a health check, or for a reason that is not "
            "recorded, and may have failed long before. Nobody is exonerated here."
        )
    before = _next(cluster.failures, failure)
    return Incident(
        site.name,
        node,
        failure,
        window,
        because,
        judge_all(_everyone(cluster, ours, window), window, failure.noticed),
        tuple(cluster.limits),
        cluster.facts,
        tuple(records.resubmissions(node, ours, window, before)),
        tuple(records.left_out(node, home.site(site.name), window, before)),
    )


def _ask_controller(cluster: _Cluster, site: Site) -> None:
    """The node's present state and the settings; a node that does not exist ends the question."""
    try:
        cluster.config = named_values(cluster.slurm.show("config"))
        shown = cluster.slurm.show("node", cluster.node)
    except SiteUnavailable as unavailable:
        if "not found" in str(unavailable):
            names = sorted(
                named["NodeName"] for named in map(node_facts, cluster.slurm.show("node").split("\n\n")) if named
            )
            raise IncidentError(
                f"site {site.name} has no node {cluster.node!r}; its nodes are: {', '.join(names)}"
            ) from unavailable
        cluster.controller_said = str(unavailable)
        cluster.limits.append(
            f"The scheduler's controller cannot be asked ({unavailable}): the node's present state is not known"
            + (
                "."
                if cluster.config
                else f", and SlurmdTimeout is taken to be {_SLURMD_TIMEOUT_S:.0f} s, Slurm's default."
            )
        )
        return
    cluster.facts = node_facts(shown)
    if (failure := node_failure(cluster.facts)) is not None:
        cluster.failures.append(failure)
    if seconds(cluster.config.get("SlurmdTimeout"), _SLURMD_TIMEOUT_S) == 0:
        cluster.limits.append(
            "SlurmdTimeout is 0: this Slurm never declares a silent node down, so the window is a guess."
        )


def _ask_accounting(cluster: _Cluster, site: Site, until: datetime) -> None:
    """Failures that the accounting has, and whether it can be asked and shows everybody's jobs."""
    if not site.accounting or cluster.config.get("AccountingStorageType", "").endswith("/none"):
        cluster.limits.append(
            "This site keeps no account of jobs (AccountingStorageType is none, or accounting = false in sites.toml). "
            "Only our own records were read. Others may have been running on the node."
        )
        return
    since = until - _SEARCHED
    try:
        found = failures_of_events(cluster.slurm.events(cluster.node, _told(since)))
        if not found and not cluster.failures:
            rows = cluster.slurm.everyones_account(cluster.node, _told(since), _told(until))
            found = failures_of_jobs(rows, cluster.node)
        _ask_privacy(cluster, site)
    except SiteUnavailable as unavailable:
        if cluster.controller_said:
            raise SiteUnavailable(f"{cluster.controller_said}; {unavailable}") from unavailable
        cluster.limits.append(_cannot_be_asked(unavailable))
        return
    cluster.accounting = True
    cluster.failures = [*found, *([] if _is_open(found) else cluster.failures)]


def _ask_privacy(cluster: _Cluster, site: Site) -> None:
    """Whether the accounting hides other people's jobs from us: slurmdbd.conf says so, or where unknown slurm.conf."""
    reach, sacctmgr = site.reach(), site.commands.sacctmgr
    database = named_values(reach.run([sacctmgr, "show", "config"]).out)
    private = (database if "PrivateData" in database else cluster.config).get("PrivateData", "none")
    if not {"jobs", "usage", "all"} & {word.strip() for word in private.split(",")}:
        return
    me = reach.run(["id", "-un"]).out.strip()
    level = reach.run([sacctmgr, "--parsable2", "--noheader", "show", "user", me, "format=AdminLevel"]).out.strip()
    if level not in _SEES_EVERYONE:
        cluster.limits.append(
            f"Other people's jobs: PrivateData is {private} and {me} is no operator, so only our own jobs are visible. "
            "Others may have been running; ask an operator to run this report."
        )


def _everyone(cluster: _Cluster, ours: Sequence[records.Submitted], window: Window) -> list[Ran]:
    """Who was on the node: by the accounting, and by our own records where it has nothing of a job of ours."""
    rows: Sequence[AccountRow] = ()
    if cluster.accounting:
        since, until = window.start - _BEFORE, window.end + _AFTER
        try:
            rows = cluster.slurm.everyones_account(cluster.node, _told(since), _told(until))
        except SiteUnavailable as unavailable:
            cluster.limits.append(_cannot_be_asked(unavailable))
        else:
            cluster.limits.append(f"Jobs that had ended before {moment(since)}, or began after {moment(until)}.")
    work = {each.name: (each.scheduler_job, each.work) for each in ours}
    accounted = ran_on(cluster.node, rows, work)
    known = {ran.job_name for ran in accounted if ran.ours}
    own = [records.as_ran(*pair) for pair in records.launches_on(cluster.node, ours) if pair[0].name not in known]
    return [*accounted, *(ran for ran in own if _near(ran, window))]


def _without_scheduler(
    home: Home, site: Site, node: str, at: datetime | None, ours: Sequence[records.Submitted]
) -> Incident:
    reach = site.ssh.reach(node) if site.ssh else site.reach()
    limits = [
        "Other people: this site has no scheduler that keeps account of them, so only our own records were read. "
        "Others may have been running on the node."
    ]
    nodes = [site.ssh.host, *site.nodes] if site.ssh else [reach.where]
    pairs = records.launches_on(node, ours)
    if node not in nodes and not pairs:
        raise IncidentError(f"site {site.name} has no node {node!r}; its nodes are: {', '.join(nodes)}")
    facts: dict[str, str] = {}
    booted_at = None
    try:
        facts["Boot id"] = reach.run(["cat", "/proc/sys/kernel/random/boot_id"]).out.strip()
        if found := re.search(r"^btime (\d+)$", reach.run(["cat", "/proc/stat"]).out, re.M):
            booted_at = datetime.fromtimestamp(int(found[1]), UTC)
            facts["Booted at"] = f"{moment(booted_at)} UTC"
    except SiteUnavailable as unavailable:
        limits.append(f"The node cannot be asked now ({unavailable}): it may be down still.")
    launches = [launch for _, launch in pairs]
    windows = {
        failure: window for failure, window in records.reboots(node, launches, facts.get("Boot id", ""), booted_at)
    }
    failure = choose_failure(list(windows), at)
    if failure is None:
        raise IncidentError(_no_failure(site, node, at, list(windows), facts, limits))
    window = windows[failure]
    before = _next(list(windows), failure)
    return Incident(
        site.name,
        node,
        failure,
        window,
        "between the last sign of life of a job of ours before it was started anew and that start",
        judge_all([ran for pair in pairs if _near(ran := records.as_ran(*pair), window)], window),
        tuple(limits),
        facts,
        tuple(records.resubmissions(node, ours, window, before)),
        tuple(records.left_out(node, home.site(site.name), window, before)),
    )


def _no_failure(
    site: Site,
    node: str,
    at: datetime | None,
    known: Sequence[Failure],
    facts: Mapping[str, str],
    limits: Sequence[str],
) -> str:
    by = f" declared by {moment(at)} UTC" if at else ""
    others = ", ".join(f"{moment(each.down)} UTC ({each.reason})" for each in joined(known))
    now = "; ".join(f"{name}: {value}" for name, value in facts.items()) or "not known"
    missing = f" Not seen: {' '.join(limits)}" if limits else ""
    cure = f"Its failures are: {others}; give a later time." if others else "Expected a node that was declared down."
    return f"no failure of {node} at site {site.name}{by} is known. {cure} The node now: {now}.{missing}"


def _is_open(failures: Sequence[Failure]) -> bool:
    """Whether the accounting has the present failure: scontrol only has its reason, which may be older or newer."""
    last = max(failures, key=lambda each: each.down, default=None)
    return last is not None and last.until is None


def _next(known: Sequence[Failure], failure: Failure) -> datetime | None:
    return next((each.down for each in joined(known) if each.down > failure.down), None)


def _near(ran: Ran, window: Window) -> bool:
    ended = ran.ended_at or window.end
    return ended >= window.start - _BEFORE and (ran.started_at or window.start) <= window.end + _AFTER


def _cannot_be_asked(unavailable: SiteUnavailable) -> str:
    return (
        f"The accounting cannot be asked ({unavailable}): who was on the node is missing here, apart from our own "
        "records. Others may have been running. Ask again when it is back."
    )


def _told(time: datetime) -> str:
    """A time as Slurm's commands take it, which are asked in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
