"""The words of an incident: a report in Markdown for a reader who knows nothing of the platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from resources.compute.incident import SEVEREST_FIRST, Incident, Judged, Resubmission, Verdict

_HEADS = ["verdict", "whose", "job", "name", "step", "state", "began", "ended", "margin", "GPUs", "CPUs", "memory, GB"]
_MEANINGS = {
    Verdict.RUNNING_AT_FAILURE: "it was on the node when the node failed. That is presence, not proof of guilt: "
    "hardware fails under innocent jobs too",
    Verdict.UNCERTAIN: "it ended or may have ended inside the window, so it may have caused the failure or not",
    Verdict.EXONERATED: "it had ended before the node can have failed, by the margin given. As far as timestamps go, "
    "this is proof of innocence",
    Verdict.BEGAN_AFTER: "it began after the node was declared down",
}


def markdown(incident: Incident) -> str:
    """The whole report."""
    parts = (
        _title(incident),
        _in_short(incident),
        _steps(incident),
        _afterwards(incident),
        _node_now(incident),
        _limits(incident),
    )
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `2 h 13 min`."""
    left = round(seconds)
    said: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or said:
            said.append(f"{count} {unit}" if count else "")
        if len(said) == 2:
            break
    return " ".join(part for part in said if part) or "less than 1 s"


def moment(time: datetime | None) -> str:
    """A time as it is printed, UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "-"


def _title(incident: Incident) -> Iterator[str]:
    failure, window = incident.failure, incident.window
    by = f" by {failure.declared_by}" if failure.declared_by else ""
    yield f"# Node {incident.node} of site {incident.site} failed"
    yield ""
    reason = _plain(failure.reason) or "none given"
    yield f"- Declared down: **{moment(failure.down)}**{by}, reason: {reason} ({failure.source})"
    yield f"- Back: {moment(failure.until) if failure.until else 'not that anybody recorded'}"
    if failure.noticed:
        between = f"It failed between **{moment(window.start)}** and **{moment(window.end)}**"
    else:
        between = (
            f"**When it failed is not known**; the verdicts below take {moment(window.start)} as the earliest moment"
        )
    yield (
        f"- {between}: {incident.window_because}. The declaration is not the failure, and a job that died with its "
        "node carries the declaration as its end"
    )
    yield "- All times are UTC"


def _in_short(incident: Incident) -> Iterator[str]:
    yield "## In short"
    yield ""
    jobs = _by_job(incident)
    present = [each for each in jobs if _worst(each) == Verdict.RUNNING_AT_FAILURE]
    if not present:
        yield "- Nobody is known to have been running on the node when it failed."
    for verdict in SEVEREST_FIRST:
        for job in (each for each in jobs if _worst(each) == verdict):
            yield f"- {_sentence(job, verdict)}"
    if any(each[0].ran.ours for each in present):
        yield "- A job of this platform was running at the failure: look at its log and its last checkpoint next."
    elif present and any(each.ran.ours for each in incident.judged):
        yield "- No job of this platform is known to have been running there at the failure."


def _sentence(job: Sequence[Judged], verdict: Verdict) -> str:
    ran = job[0].ran
    whose = "**Ours**" if ran.ours else "Not ours"
    named = f"job {ran.job or '(no scheduler)'} `{_plain(ran.job_name)}` of {ran.user or 'an unnamed user'}"
    if ran.work:
        named += f" ({ran.work})"
    of_verdict = [each for each in job if each.verdict == verdict]
    gpus = max(each.ran.gpus for each in of_verdict)
    held = f", with {gpus} GPU{'s' if gpus != 1 else ''}" if gpus else ""
    match verdict:
        case Verdict.RUNNING_AT_FAILURE:
            began = min(each.ran.started_at for each in of_verdict if each.ran.started_at)
            return f"{whose}: {named} **was running at the failure** (since {moment(began)}{held})."
        case Verdict.UNCERTAIN:
            return f"{whose}: {named}: **uncertain**; {of_verdict[0].note}{held}."
        case Verdict.EXONERATED:
            last = max(each.ran.ended_at for each in of_verdict if each.ran.ended_at)
            margin = min(each.margin_s for each in of_verdict if each.margin_s is not None)
            return (
                f"{whose}: {named} **is exonerated**: the last of it ended at {moment(last)}, {duration(margin)} "
                "before the earliest moment at which the node can have failed."
            )
        case Verdict.BEGAN_AFTER:
            return f"{whose}: {named} began after the node was declared down."


def _steps(incident: Incident) -> Iterator[str]:
    yield "## Steps on the node"
    yield ""
    if not incident.judged:
        yield "None is known."
        return
    yield _line(_HEADS)
    yield _line(["---"] * len(_HEADS))
    for each in incident.judged:
        yield _line(_cells(each))
    notes = [f"- {_step_name(each)}: {each.note}." for each in incident.judged if each.note]
    if notes:
        yield from ("", *notes)
    yield ""
    if any(each.ran.ours for each in incident.judged):
        yield "- `ours`: submitted by this platform; all others are named by their user."
    for verdict in SEVEREST_FIRST:
        if incident.of(verdict):
            yield f"- {verdict}: {_MEANINGS[verdict]}."
    if any(each.ran.nodes > 1 for each in incident.judged):
        yield "- Where resources are spread over several nodes, the share of this one is not recorded."


def _cells(each: Judged) -> list[str]:
    ran = each.ran
    spread = f" (on {ran.nodes} nodes)" if ran.nodes > 1 else ""
    return [
        each.verdict.value,
        "ours" if ran.ours else ran.user or "unknown",
        (ran.job or "-") + (f" (run {ran.run + 1})" if ran.run else ""),
        _plain(ran.job_name),
        ran.step or "(whole job)",
        ran.state,
        moment(ran.started_at),
        moment(ran.ended_at),
        duration(each.margin_s) if each.margin_s is not None else "-",
        f"{ran.gpus}{spread}",
        "-" if ran.cpus is None else f"{ran.cpus}{spread}",
        "-" if ran.memory_gb is None else f"{ran.memory_gb:.1f}{spread}",
    ]


def _afterwards(incident: Incident) -> Iterator[str]:
    yield "## What the platform did then"
    yield ""
    if not incident.resubmissions and not incident.left_out:
        yield "Nothing: no job of this platform is recorded to have ended because of this failure."
    for each in incident.resubmissions:
        yield f"- {_resubmitted(each)}"
    for out in incident.left_out:
        span = f"from {moment(out.since)} to {moment(out.until)}"
        yield f"- The node was left out {span} because of job {out.job}: {_plain(out.reason)}"


def _resubmitted(each: Resubmission) -> str:
    work = f" ({each.work})" if each.work else ""
    ended = f"Job `{each.job}`{work}: submission {each.submission} ended NODE_FAIL, noticed at {moment(each.ended_at)}"
    if each.next_submission is None:
        return f"{ended}; it was not submitted again."
    where = f" on {each.next_node}" if each.next_node else ""
    now = f"ended {each.next_ending}" if each.next_ending else "has not ended yet"
    return f"{ended}; submission {each.next_submission}{where} {now}."


def _node_now(incident: Incident) -> Iterator[str]:
    if incident.node_now:
        yield "## The node now"
        yield ""
        yield from (f"- {name}: {_plain(value)}" for name, value in incident.node_now.items())


def _limits(incident: Incident) -> Iterator[str]:
    yield "## What this report does not see"
    yield ""
    yield from (f"- {sentence}" for sentence in incident.limits)
    yield "- Processes that belong to no job: logins, daemons, leftovers of ended jobs."
    yield "- Causes. Timestamps say who was there; the node's kernel log and its hardware say why it failed."


def _by_job(incident: Incident) -> list[list[Judged]]:
    jobs: dict[tuple[str, int, str], list[Judged]] = {}
    for each in incident.judged:
        jobs.setdefault((each.ran.job, each.ran.run, each.ran.job_name), []).append(each)
    return list(jobs.values())


def _worst(job: Sequence[Judged]) -> Verdict:
    return min((each.verdict for each in job), key=SEVEREST_FIRST.index)


def _step_name(each: Judged) -> str:
    return ".".join(part for part in (each.ran.job or _plain(each.ran.job_name), each.ran.step) if part)


def _plain(text: str) -> str:
    """Text of strangers (a job may have any name) that cannot break a table or pass for markup."""
    return "".join(letter if letter.isprintable() and letter not in "|`<>[]*\\" else "?" for letter in text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
