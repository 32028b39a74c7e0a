"""What Slurm prints of nodes, events and accounts, in the terms of an incident. All times were asked for in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from resources.compute.incident import Failure, Ran
from resources.compute.slurm_commands import AccountRow, memory_bytes

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
_EVENT = re.compile(rf"^([^|\n]*)\|({_TIME}|Unknown|None|)\|({_TIME}|Unknown|None|)\|", re.M)
_REASON = re.compile(rf"^\s*Reason=(.*?) \[(\S+)@({_TIME})\]", re.M)
_FACTS = ("NodeName", "State", "BootTime", "SlurmdStartTime", "LastBusyTime")
_NOTICED = re.compile(r"not responding|unexpectedly rebooted", re.I)
_FAILED = {"DOWN", "FAIL", "FAILING", "ERROR", "NOT_RESPONDING"}
_SILENT = "*"
_FLAGS = "*~#!%$@^-+"
_GIB = 1024**3


def time_of(text: str) -> datetime | None:
    """A time of Slurm; None for `Unknown`, `None` and nothing."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if re.fullmatch(_TIME, text) else None


def seconds(text: str | None, default: float) -> float:
    """Seconds of `300 sec`; ``default`` where there is no number."""
    found = re.match(r"\d+", text or "")
    return float(found[0]) if found else default


def named_values(text: str) -> dict[str, str]:
    """Lines `Name = value`."""
    found = (re.match(r"(\S+?)\s*=\s*(.*?)\s*$", line) for line in text.splitlines())
    return {each[1]: each[2] for each in found if each}


def node_facts(text: str) -> dict[str, str]:
    """State, reason and times of a node from `scontrol show node`; empty where there is no node in the text."""
    facts = {name: found[1] for name in _FACTS if (found := re.search(rf"(?:^|\s){name}=(\S+)", text))}
    if found := _REASON.search(text):
        facts |= {"Reason": found[1], "Reason by": found[2], "Reason at": found[3]}
    return facts


def node_failure(facts: Mapping[str, str]) -> Failure | None:
    """The failure that a node is in now, as far as the controller says: its reason carries the time."""
    down = time_of(facts.get("Reason at", ""))
    if down is None or not _failed(facts.get("State", "")):
        return None
    reason = facts.get("Reason", "")
    noticed = bool(_NOTICED.search(reason))  # another reason may be older than the failure: the first one is kept
    return Failure(down, None, reason, facts.get("Reason by", ""), "scontrol show node", noticed)


def failures_of_events(text: str) -> list[Failure]:
    """Failures among the events `state|start|end|reason|user`; a reason may hold | and newlines."""
    return list(_failures(text))


def _failures(text: str) -> Iterator[Failure]:
    heads = list(_EVENT.finditer(text))
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(text)
        down = time_of(head[2])
        reason, _, user = " ".join(text[head.end() : end].split("\n")).strip().rpartition("|")
        if down is not None and _failed(head[1]):
            noticed = _SILENT in head[1] or bool(_NOTICED.search(reason))
            yield Failure(down, time_of(head[3]), reason, user, "sacctmgr show event", noticed)


def failures_of_jobs(rows: Sequence[AccountRow], node: str) -> list[Failure]:
    """Failures by which jobs ended that were on this node alone; why it was declared down is not known."""
    times = {time_of(row.end) for row in rows if row.state == "NODE_FAIL" and not row.step and row.nodes == node}
    reason = "not recorded; jobs ended NODE_FAIL"
    return [Failure(time, time, reason, "", "sacct", False) for time in sorted(filter(None, times))]


def ran_on(node: str, rows: Sequence[AccountRow], ours: Mapping[str, tuple[str, str]]) -> list[Ran]:
    """Jobs and steps that were on a node, each step after its job.

    ``ours`` names our submissions: key -> (job id or nothing, what it works on).
    """
    found: list[Ran] = []
    runs: dict[str, int] = {}
    job: AccountRow | None = None
    for row in rows:
        if not row.step:
            job, runs[row.job] = row, runs.get(row.job, -1) + 1
        nodes = expanded(row.nodes)
        if node not in nodes or job is None or job.job != row.job:
            continue
        known, work = ours.get(job.name, ("", ""))
        found.append(
            Ran(
                job=row.job,
                step=row.step,
                job_name=job.name,
                user=job.user,
                ours=job.name in ours and known in ("", row.job),
                state=row.state,
                job_state=job.state,
                started_at=time_of(row.start),
                ended_at=time_of(row.end),
                gpus=_gpus(row.tres),
                cpus=int(row.tres.get("cpu", 0)) or None,
                memory_gb=_gigabytes(row.tres.get("mem", "")),
                nodes=len(nodes),
                run=runs[row.job],
                work=work,
            )
        )
    return found


def expanded(nodes: str) -> list[str]:
    """Names of Slurm's node list: `an[51-53,60],cn1` -> an51, an52, an53, an60, cn1."""
    parts = re.findall(r"[^,\[\]]*(?:\[[^\]]*\][^,\[\]]*)*", nodes)
    return [name for part in parts if part for name in _expanded_part(part)]


def _expanded_part(part: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if not found:
        return [part]
    names = []
    for span in found[1].split(","):
        first, _, last = span.partition("-")
        numbers = [first] if not last else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        names += [
            f"{part[: found.start()]}{number}{rest}"
            for number in numbers
            for rest in _expanded_part(part[found.end() :])
        ]
    return names


def _failed(state: str) -> bool:
    words = {word.strip(_FLAGS) for word in re.split(r"[+ ]", state)}
    return _SILENT in state or bool(words & _FAILED)


def _gpus(tres: Mapping[str, str]) -> int:
    if "gres/gpu" in tres:
        return int(tres["gres/gpu"])
    return sum(int(count) for name, count in tres.items() if name.startswith("gres/gpu:"))


def _gigabytes(text: str) -> float | None:
    found = memory_bytes(text)
    return found / _GIB if found is not None else None
