"""What every view of a trace says alike: where a value was computed, and which versions decided it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from provenance.tree import Node, Trace


def computed(node: Node) -> list[tuple[str, str]]:
    """Label and text of everything that is known of the computation of a node; empty for files and registrations."""
    record = node.record
    if record is None:
        return [("run", node.run_id)] if node.run_id else []
    told = [
        ("computed", f"{record.recorded_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("run", record.run_id),
        ("code version", record.code_version),
        ("git commit", record.git_commit or "not known"),
        ("node", record.node),
    ]
    return told + _job(node.job)


def _job(job: Mapping | None) -> list[tuple[str, str]]:
    if job is None:
        return [("job", "none: computed in the run itself")]
    if "site" not in job:
        return [("job", f"{job['key']} (its directory is gone)")]
    told = [("job", job["key"]), ("site", job["site"]), ("ending", str(job["ending"]))]
    if str(job["reference"]).isdigit():  # of a process it says nothing to a reader
        told.append(("scheduler's job", str(job["reference"])))
    if job["submission"] > 1:
        told.append(("submission", str(job["submission"])))
    times = [f"{job[name]:%Y-%m-%d %H:%M:%S}" if job[name] else "?" for name in ("started_at", "ended_at")]
    return [*told, ("job ran", " to ".join(times) + " UTC")]


def versions(trace: Trace) -> tuple[Mapping[str, str], list[str]]:
    """Versions that decide numbers at the root, and in words where another hop differs from them."""
    root = trace.nodes[trace.root].record
    shared = dict(root.versions) if root else {}
    differ: dict[str, list[str]] = defaultdict(list)
    for node in trace.nodes.values():
        for name, found in (node.record.versions if node.record else {}).items():
            if shared.get(name) != found:
                differ[f"{name} {found} (here {shared.get(name, 'not installed')})"].append(node.title)
    return shared, [f"{what} at {', '.join(sorted(set(where)))}" for what, where in differ.items()]


def heading(trace: Trace) -> str:
    """The number's name: asset, partition, and the columns that chose its rows."""
    chosen = ", ".join(f"{name}={text}" for name, text in trace.where.items())
    return trace.nodes[trace.root].title + (f" where {chosen}" if chosen else "")
